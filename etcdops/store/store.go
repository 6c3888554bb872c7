// Package store keeps snapshots in places besides the host's own folder: other
// folders, and buckets of object stores that speak Amazon's S3.
//
// Words: a store holds objects by name; a place is a store as the spec names it;
// a copy of a snapshot is two objects of one folder in it,
// <cluster>/<host>/<name>.db… and <cluster>/<host>/<name>.json, its manifest.
//
// Invariants:
//
//   - An object has its name when it is whole, and never before. The manifest is
//     put last and taken away last: what has a manifest was brought there, and a
//     snapshot without one is not deleted, whoever put it there.
//   - What could not be read is not taken for empty: an error lists nothing, and
//     so nothing is deleted because of it.
//   - A host deletes its own snapshots and no others.
//   - Memory does not depend on the size of a snapshot.
package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Store is where objects lie. Names are relative and have slashes; see CheckName.
//
// Every method ends when ctx does, and when the store lets it wait for too long
// without a sign of life; the error then wraps ErrStalled. What is wrong with an
// answer is said with what to do about it.
type Store interface {
	// List returns the objects of a folder and below it, in the order of their
	// names. A folder that is not there has none; a store that is not there is
	// an error.
	List(ctx context.Context, dir string) ([]Object, error)
	// Put makes the object, or replaces it, all at once. It fails, and leaves
	// what was there, where what it reads is not of meta's size and hash, or
	// where the store then has something else. What an interrupted Put left
	// unfinished the next one of the same name goes on with.
	Put(ctx context.Context, name string, body io.ReaderAt, meta Meta, progress func(done, total int64)) error
	// Get returns the object's bytes from an offset on. The error wraps
	// ErrNotFound where there is none.
	Get(ctx context.Context, name string, from int64) (io.ReadCloser, error)
	// Has tells whether the object is there with exactly the size and the hash,
	// as far as the store can tell without its being read: false is no error.
	Has(ctx context.Context, name string, meta Meta) (bool, error)
	// Delete deletes the object; one that is not there is no error. The error is
	// a *KeptError where the store may not delete it yet.
	Delete(ctx context.Context, name string) error
	// Tidy removes from a folder what uploads left unfinished, those of the named
	// objects excepted.
	Tidy(ctx context.Context, dir string, except []string) error
}

// Object is one object of a listing.
type Object struct {
	Name     string
	Size     int64
	Modified time.Time
}

// Meta is what an object is said to be.
type Meta struct {
	Size int64
	// SHA256 is hexadecimal.
	SHA256      string
	ContentType string
	// About is told with the object where the store has a place for it.
	About map[string]string
}

// The reasons for which a store fails; errors wrap one of them where it is
// known.
var (
	ErrNotFound = errors.New("not found")
	// ErrStalled is the error of a store that gave no sign of life for too long.
	ErrStalled = errors.New("the store gave no sign of life")
	// ErrRubbish is the error of an answer that no such store gives.
	ErrRubbish = errors.New("the answer is not one of S3")
	// ErrChanged is the error of a file that is not what it is said to be.
	ErrChanged = errors.New("the file is not what its manifest says")
	// ErrDenied is the error of a store that knows us and lets us not.
	ErrDenied = errors.New("access denied")
	// ErrFull is the error of a store without room.
	ErrFull = errors.New("the store is full")
	// ErrClock is the error of clocks that are too far apart.
	ErrClock = errors.New("this host's clock and the store's are too far apart")
	// ErrNoStore is the error of a folder or a bucket that is not there.
	ErrNoStore = errors.New("the store is not there")
)

// KeptError is the error of an object that may not be deleted yet.
type KeptError struct {
	Name string
	// Until is when it may be, zero where that is not known.
	Until time.Time
}

func (e *KeptError) Error() string {
	if e.Until.IsZero() {
		return fmt.Sprintf("%s is kept by object lock", e.Name)
	}
	return fmt.Sprintf("%s is kept by object lock until %s", e.Name, e.Until.UTC().Format(time.RFC3339))
}

// stallPatience is how long a store may give no sign of life. A large object is
// put together by some stores before they answer.
const stallPatience = time.Minute

// copyBuffer is how much is read and written at once.
const copyBuffer = 256 << 10

// closing calls f with the error of a function that returns it by name.
func closing(err *error, f func() error) {
	*err = errors.Join(*err, f())
}
