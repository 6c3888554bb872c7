package store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/minio/minio-go/v7"
)

// explain says what an error of the store means, and what to do. Where our own
// end has come, that is the error.
func (s *S3) explain(ctx context.Context, what string, err error) error {
	if ctxErr := ctx.Err(); ctxErr != nil {
		return fmt.Errorf("%s: %w", what, ctxErr)
	}
	if once := (explained{}); errors.As(err, &once) {
		return err
	}
	if answer := (minio.ErrorResponse{}); errors.As(err, &answer) {
		return fmt.Errorf("%s: %w", what, explained{s.explainAnswer(answer)})
	}
	if request := (*url.Error)(nil); errors.As(err, &request) {
		err = request.Err // what was asked is said in our words
	}
	return fmt.Errorf("%s: %w", what, explained{s.explainTransport(err)})
}

// explained is an error that says what it means and what to do.
type explained struct{ error }

func (e explained) Unwrap() error { return e.error }

// explainAnswer is for what the store itself said.
func (s *S3) explainAnswer(answer minio.ErrorResponse) error {
	said := answer.Code
	if answer.Message != "" && answer.Message != answer.Code {
		said += ": " + strings.TrimSuffix(strings.Join(strings.Fields(answer.Message), " "), ".")
	}
	if answer.StatusCode != 0 {
		said += fmt.Sprintf(" (status %d)", answer.StatusCode)
	}
	switch answer.Code {
	case minio.NoSuchKey, "NotFound":
		return fmt.Errorf("%w: %s", ErrNotFound, said)
	case minio.NoSuchBucket:
		return fmt.Errorf("%w: %s: make the bucket %q, or correct the name", ErrNoStore, said, s.at.Bucket)
	case "RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture":
		return fmt.Errorf("%w: %s: set the clock (timedatectl shows it, an NTP client keeps it)", ErrClock, said)
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "XAdminUserNotFound":
		return fmt.Errorf("%w: %s: the store does not know the access key %s, or its secret is another one", ErrDenied, said, s.key)
	case minio.AccessDenied, "AllAccessDisabled", "AccountProblem":
		return fmt.Errorf("%w: %s: allow the access key %s to list the bucket %q (uploads that are not finished, too), and to read, write and delete its objects",
			ErrDenied, said, s.key, s.at.Bucket)
	case "QuotaExceeded", "XMinioStorageFull", "InsufficientCapacity", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage":
		return fmt.Errorf("%w: %s: free some space, raise the quota, or keep fewer snapshots there", ErrFull, said)
	case "AuthorizationHeaderMalformed", "PermanentRedirect", "InvalidRegion", "IllegalLocationConstraintException":
		return fmt.Errorf("%s: the bucket is in another region than %q", said, s.at.Region)
	}
	switch {
	case answer.StatusCode == http.StatusInsufficientStorage:
		return fmt.Errorf("%w: %s", ErrFull, said)
	case answer.StatusCode >= http.StatusInternalServerError || answer.StatusCode == http.StatusTooManyRequests:
		return fmt.Errorf("%s: the store has a problem of its own", said)
	case answer.StatusCode == http.StatusOK, answer.Code == "":
		return fmt.Errorf("%w: %s", ErrRubbish, said)
	}
	return errors.New(said)
}

// explainTransport is for what happened on the way.
func (s *S3) explainTransport(err error) error {
	var (
		syntax    *xml.SyntaxError
		shape     xml.UnmarshalError
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError
		alert     tls.AlertError
		timeout   net.Error
	)
	endpoint := s.at.Endpoint
	switch {
	case errors.Is(err, ErrChanged):
		return err
	case errors.Is(err, ErrRubbish):
		return fmt.Errorf("%w: is %s the store's address for S3, and nothing between it and this host?", err, endpoint)
	case errors.As(err, &authority):
		return fmt.Errorf("%w: name the CA that signs the certificate of %s as ca_file", err, endpoint)
	case errors.As(err, &name), errors.As(err, &invalid):
		return fmt.Errorf("%w: the certificate of %s is not good: renew it, or correct the endpoint", err, endpoint)
	case errors.As(err, &record), errors.As(err, &alert), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Errorf("%w: %s does not speak TLS as it should: is that the right port?", err, endpoint)
	case errors.As(err, &syntax), errors.As(err, &shape):
		return fmt.Errorf("%w: %w: is %s the store's address for S3, and nothing between it and this host?", ErrRubbish, err, endpoint)
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("%w: %w: is %s up, and the way to it open?", ErrStalled, err, endpoint)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return fmt.Errorf("the answer of %s was cut off: %w", endpoint, err)
	}
	return err
}
