package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
)

// The headers of an object that is locked.
const (
	headerRetainUntil = "X-Amz-Object-Lock-Retain-Until-Date"
	headerLegalHold   = "X-Amz-Object-Lock-Legal-Hold"
)

// maxVersions bounds how many versions of one object are deleted at once; what is
// left is deleted the next time.
const maxVersions = 20

// Delete implements Store. In a bucket that keeps versions it deletes them, each
// by itself: without its version, a delete would only hide the object, which
// goes on taking room, and one that is locked would seem to be gone.
func (s *S3) Delete(ctx context.Context, name string) error {
	what := "delete " + s.where(name)
	for range maxVersions {
		info, err := s.core.StatObject(ctx, s.at.Bucket, s.object(name), minio.StatObjectOptions{})
		if err != nil {
			err = s.explain(ctx, what, err)
			if errors.Is(err, ErrNotFound) {
				return nil
			}
			return err
		}
		if kept := s.lockedUntil(name, info); kept != nil {
			return kept
		}
		err = s.core.RemoveObject(ctx, s.at.Bucket, s.object(name), minio.RemoveObjectOptions{VersionID: info.VersionID})
		if err != nil {
			if lockRefused(err) {
				return s.keptBy(ctx, name, info.VersionID)
			}
			return s.explain(ctx, what, err)
		}
	}
	return fmt.Errorf("%s: it is still there after %d versions of it were deleted", what, maxVersions)
}

// lockedUntil is why the object may not be deleted, as far as the store tells
// this access key.
func (s *S3) lockedUntil(name string, info minio.ObjectInfo) error {
	if info.Headers.Get(headerLegalHold) == "ON" {
		return &KeptError{Name: name}
	}
	until, err := time.Parse(time.RFC3339, info.Headers.Get(headerRetainUntil))
	if err == nil && until.After(time.Now()) {
		return &KeptError{Name: name, Until: until}
	}
	return nil
}

// keptBy is the error of an object whose deletion was refused because of a lock,
// with the lock's end where the store tells that when it is asked by itself.
func (s *S3) keptBy(ctx context.Context, name, version string) error {
	kept := &KeptError{Name: name}
	if _, until, err := s.core.GetObjectRetention(ctx, s.at.Bucket, s.object(name), version); err == nil && until != nil {
		kept.Until = *until
	}
	return kept
}

// lockRefused tells whether a delete was refused because of a lock that we could
// not see. Stores say so in words.
func lockRefused(err error) bool {
	answer := minio.ToErrorResponse(err)
	text := strings.ToLower(answer.Code + " " + answer.Message)
	return strings.Contains(text, "object lock") || strings.Contains(text, "objectlock") || strings.Contains(text, "protected by") || strings.Contains(text, "worm")
}
