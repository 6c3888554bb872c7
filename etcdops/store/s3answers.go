package store

import (
	"bufio"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// checking refuses answers that say that all is well and are none of S3: the page
// of a proxy that wants somebody to sign in would else be read as a listing
// without objects.
type checking struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (c checking) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := c.RoundTripper.RoundTrip(r)
	if err != nil || answer.StatusCode != http.StatusOK && answer.StatusCode != http.StatusPartialContent {
		return answer, err
	}
	if root := rootOf(r); root != "" {
		err = checkRoot(answer, root)
	} else if isObject(r) && answer.Header.Get("ETag") == "" {
		err = fmt.Errorf("%w: it tells nothing of the object", ErrRubbish)
	}
	if err != nil {
		return nil, errors.Join(err, answer.Body.Close())
	}
	return answer, nil
}

// rootOf is the element that the answer to a request has to be, or none.
func rootOf(r *http.Request) string {
	query := r.URL.Query()
	switch {
	case r.Method == http.MethodGet && query.Has("list-type"):
		return "ListBucketResult"
	case r.Method == http.MethodGet && query.Has("uploads"):
		return "ListMultipartUploadsResult"
	case r.Method == http.MethodPost && query.Has("uploads"):
		return "InitiateMultipartUploadResult"
	case r.Method == http.MethodGet && query.Has("uploadId"):
		return "ListPartsResult"
	}
	return ""
}

// isObject tells whether a request reads or writes an object or a part.
func isObject(r *http.Request) bool {
	return r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodPut
}

// maxProlog is how far into an answer its first element is looked for, in bytes.
const maxProlog = 4 << 10

// checkRoot looks at the beginning of the answer and leaves all of it to be read.
func checkRoot(answer *http.Response, root string) error {
	body := bufio.NewReaderSize(answer.Body, maxProlog)
	head, err := body.Peek(maxProlog)
	if err != nil && !errors.Is(err, io.EOF) && len(head) == 0 {
		return err
	}
	answer.Body = struct {
		io.Reader
		io.Closer
	}{body, answer.Body}
	decoder := xml.NewDecoder(strings.NewReader(string(head)))
	for {
		token, err := decoder.Token()
		if err != nil {
			return fmt.Errorf("%w: it is no XML with %s", ErrRubbish, root)
		}
		if element, ok := token.(xml.StartElement); ok {
			if element.Name.Local != root {
				return fmt.Errorf("%w: it is <%s>, not <%s>", ErrRubbish, element.Name.Local, root)
			}
			return nil
		}
	}
}
