package vault

import (
	"cmp"
	"encoding/json"
	"fmt"
	"path"
	"reflect"
	"slices"
	"time"

	"github.com/nodeagent/nodeagent/pki"
)

// State is everything that a cluster has in Vault, as the fleet wants it or as
// it is there.
type State struct {
	Place Place
	// Objects are sorted by kind, mount and name. Observed ones are those that
	// carry our naming, and no others.
	Objects []Object
	// Authorities are in the order of layout.CAs.
	Authorities []Authority
	// Adopted are the secrets of a local issuer that are to be written; see
	// [Adopt]; wanted only.
	Adopted []pki.HeldKey

	// The rest is observed only.

	// Others are what lies below the place, or in one of its engines, and
	// carries another name than we give. It is listed and left alone.
	Others []Object
	// Above are mounts at a path above the place: Vault has no mount below
	// another one.
	Above []string
	// Audit are the audit devices; AuditHidden tells that the token may not see
	// them.
	Audit       []string
	AuditHidden bool
}

// Kind is what an object is.
type Kind int

// The kinds, in the order in which they are made.
const (
	KindEngine   Kind = iota // a secrets engine
	KindTidy                 // how a PKI engine cleans up after itself
	KindSettings             // of the KV engine
	KindRole                 // signs one certificate of one host
	KindPolicy               // what the tokens of one host may do
	KindMethod               // an auth method
	KindLogin                // lets one host log in by one method
)

var kindNames = map[Kind]string{
	KindEngine: "engine", KindTidy: "tidy", KindSettings: "settings", KindRole: "role",
	KindPolicy: "policy", KindMethod: "method", KindLogin: "login",
}

// String is the word in plans.
func (k Kind) String() string { return kindNames[k] }

// Object is one thing that Vault's API reads and writes at one path.
type Object struct {
	Kind Kind
	// Mount is the path of the engine or method that it is or belongs to; empty
	// for a policy. Name is its name there; empty for what a mount has once.
	Mount, Name string
	Fields      Fields
}

// Key names the object in plans: "role nodeagent/mercury/etcd-peer/n1.etcd-peer".
func (o Object) Key() string { return o.Kind.String() + " " + path.Join(o.Mount, o.Name) }

// path is where the API has it.
func (o Object) path() string {
	switch o.Kind {
	case KindEngine:
		return "sys/mounts/" + o.Mount
	case KindMethod:
		return "sys/auth/" + o.Mount
	case KindTidy:
		return o.Mount + "/config/auto-tidy"
	case KindSettings:
		return o.Mount + "/config"
	case KindRole:
		return o.Mount + "/roles/" + o.Name
	case KindPolicy:
		return "sys/policies/acl/" + o.Name
	}
	return loginFolder(o.Mount) + o.Name
}

// loginFolder is where a method has its roles: certs/ for certificates, role/
// for the others.
func loginFolder(mount string) string {
	if path.Base(mount) == authCert {
		return "auth/" + mount + "/certs/"
	}
	return "auth/" + mount + "/role/"
}

func compareObjects(a, b Object) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Mount, b.Mount), cmp.Compare(a.Name, b.Name))
}

// object is the one that has the same place as another, nil for none. Objects
// are sorted.
func (s State) object(like Object) *Object {
	i, found := slices.BinarySearchFunc(s.Objects, like, compareObjects)
	if !found {
		return nil
	}
	return &s.Objects[i]
}

// Fields are an object's values by Vault's own names: bool, int64 (durations in
// seconds), string, []string sorted, nil for nothing, or what else JSON has.
type Fields map[string]any

// normal is a value as Fields have it. What is empty is nothing, since Vault
// answers null, "", [] and {} for it as it pleases.
func normal(value any) any {
	switch v := value.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		return v.String()
	case int:
		return int64(v)
	case float64:
		return int64(v)
	case time.Duration:
		return int64(v / time.Second)
	case string:
		if v == "" {
			return nil
		}
	case []string:
		return normalList(v)
	case []any:
		list := make([]string, len(v))
		for i, element := range v {
			list[i] = fmt.Sprint(element)
		}
		return normalList(list)
	case map[string]any:
		if len(v) == 0 {
			return nil
		}
	}
	return value
}

func normalList(list []string) any {
	if len(list) == 0 {
		return nil
	}
	list = slices.Clone(list)
	slices.Sort(list)
	return list
}

func normalFields(values map[string]any) Fields {
	fields := make(Fields, len(values))
	for name, value := range values {
		fields[name] = normal(value)
	}
	return fields
}

// differing are the names of the wanted fields that have other values, sorted.
// A field that is not answered at all is one that this version of Vault does
// not know.
func (f Fields) differing(want Fields) []string {
	var names []string
	for name, value := range want {
		if have, known := f[name]; known && !reflect.DeepEqual(have, value) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// word is a value as plans print it.
func word(value any) string {
	switch v := value.(type) {
	case nil:
		return "none"
	case string:
		return v
	}
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	return string(text)
}
