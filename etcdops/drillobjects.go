package etcdops

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// ObjectSamples is how many objects of Kubernetes a drill has looked into.
type ObjectSamples struct {
	// Resources is of how many resources; each was counted too.
	Resources int `json:"resources"`
	// Decoded are those that were read; Opened of them were encrypted at rest, and
	// this host has the key. Closed are encrypted with a key that it has not.
	Decoded int `json:"decoded"`
	Opened  int `json:"opened,omitempty"`
	Closed  int `json:"closed,omitempty"`
	// Other are values that are no objects.
	Other int `json:"other,omitempty"`
}

// add looks into one value. The error says how it is damaged.
func (s *ObjectSamples) add(key string, value []byte, open func(string, []byte) ([]byte, bool)) error {
	if bytes.HasPrefix(value, encryptedPrefix) {
		if open == nil {
			s.Closed++
			return nil
		}
		plain, ok := open(key, value)
		if !ok {
			s.Closed++
			return nil
		}
		value = plain
		s.Opened++
	}
	object, err := decodeObject(value)
	if errors.Is(err, errNoObject) {
		s.Other++
		return nil
	}
	if err == nil {
		err = object.fits(key)
	}
	if err == nil {
		s.Decoded++
	}
	return err
}

// sampleStarts are keys from which on an object of the prefix is looked at: the
// first, and others anywhere. Keys are namespaces and names, in small letters.
func sampleStarts(prefix string) []string {
	starts := []string{prefix}
	for range 3 {
		starts = append(starts, prefix+string(rune('a'+rand.IntN(26)))+string(rune('a'+rand.IntN(26))))
	}
	return starts
}

// storedObject is what every object of Kubernetes says of itself.
type storedObject struct {
	APIVersion, Kind, Namespace, Name string
}

// errNoObject is the error of a value that does not pretend to be an object.
var errNoObject = errors.New("neither protobuf nor JSON of Kubernetes")

// protobufPrefix begins an object in the encoding of built-in resources; see
// https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding.
var protobufPrefix = []byte("k8s\x00")

// decodeObject decodes an object as far as all have the same form: its envelope
// and its metadata, in the one of two encodings that it has, to its last byte.
func decodeObject(value []byte) (storedObject, error) {
	switch {
	case bytes.HasPrefix(value, protobufPrefix):
		return decodeProtobuf(value[len(protobufPrefix):])
	case bytes.HasPrefix(value, []byte("{")):
		return decodeJSON(value)
	}
	return storedObject{}, errNoObject
}

func decodeJSON(value []byte) (storedObject, error) {
	var o struct {
		APIVersion, Kind string
		Metadata         struct{ Namespace, Name string }
	}
	if err := json.Unmarshal(value, &o); err != nil {
		return storedObject{}, fmt.Errorf("it is no JSON: %w", err)
	}
	return storedObject{o.APIVersion, o.Kind, o.Metadata.Namespace, o.Metadata.Name}, nil
}

// decodeProtobuf reads a runtime.Unknown (k8s.io/apimachinery, generated.proto):
// 1 is the type (1 apiVersion, 2 kind) and 2 the object, whose own first field is
// its metadata (1 name, 3 namespace).
func decodeProtobuf(value []byte) (o storedObject, err error) {
	envelope, err := protoFields(value, 1, 2)
	if err != nil {
		return o, fmt.Errorf("its envelope: %w", err)
	}
	kind, err := protoFields(envelope[1], 1, 2)
	if err != nil {
		return o, fmt.Errorf("its type: %w", err)
	}
	body, err := protoFields(envelope[2], 1)
	if err != nil {
		return o, err
	}
	metadata, err := protoFields(body[1], 1, 3)
	if err != nil {
		return o, fmt.Errorf("its metadata: %w", err)
	}
	return storedObject{
		APIVersion: string(kind[1]), Kind: string(kind[2]),
		Name: string(metadata[1]), Namespace: string(metadata[3]),
	}, nil
}

// protoFields walks over all fields of a message and returns the wanted ones,
// which are bytes.
func protoFields(message []byte, wanted ...protowire.Number) (map[protowire.Number][]byte, error) {
	found := map[protowire.Number][]byte{}
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		message = message[n:]
		if n = protowire.ConsumeFieldValue(number, kind, message); n < 0 {
			return nil, protowire.ParseError(n)
		}
		for _, w := range wanted {
			if w == number && kind == protowire.BytesType {
				found[number], _ = protowire.ConsumeBytes(message)
			}
		}
		message = message[n:]
	}
	return found, nil
}

// fits tells whether the object can be the one under the key, which ends in its
// name, before which its namespace stands where it has one. Some have no name:
// the ranges of addresses, the leases of API servers.
func (o storedObject) fits(key string) error {
	switch {
	case o.APIVersion == "" || o.Kind == "":
		return errors.New("it does not say what it is")
	case o.Name != "" && path.Base(key) != o.Name:
		return fmt.Errorf("it is %s %q", o.Kind, o.Name)
	case o.Name != "" && o.Namespace != "" && !strings.HasSuffix(key, "/"+o.Namespace+"/"+o.Name):
		return fmt.Errorf("it is %s %q of namespace %q", o.Kind, o.Name, o.Namespace)
	}
	return nil
}
