package hosts

import (
	"fmt"
	"slices"
	"strings"
)

// Find returns the key that a person means by a path: NAME may be a name or be
// left out ("network.link.eth0.mtu", "network.link.mtu"), and so may be what
// comes before a key that is only once there ("pod_mtu"). The error of one that
// is not there says what is near.
func Find(path string) (*Key, error) {
	path = strings.Trim(path, ". ")
	parts := strings.Split(path, ".")
	if k := reference().find(parts); k != nil {
		return k, nil
	}
	if same := endingIn(path); len(same) == 1 {
		return Lookup(same[0]), nil
	}
	at := reference()
	for i, part := range parts {
		below := at.find(parts[i : i+1])
		if below != nil {
			at = below
			continue
		}
		siblings := slices.Sorted(slices.Values(at.names()))
		if len(siblings) == 0 {
			return nil, fmt.Errorf("there is no key %q: nothing is below %s, of type %s", path, at.Path, at.Type())
		}
		for i, name := range siblings {
			siblings[i] = strings.TrimPrefix(at.Path+"."+name, ".")
		}
		if near := didYouMean(strings.TrimPrefix(at.Path+"."+part, "."), siblings); near != "" {
			return nil, fmt.Errorf("there is no key %q%s", path, near)
		}
		if same := endingIn(path); len(same) > 0 {
			return nil, fmt.Errorf("there is no key %q alone: it is %s", path, list(same))
		}
		return nil, fmt.Errorf("there is no key %q: there is %s", path, list(siblings))
	}
	return at, nil
}

// find goes down by parts of a path. A part below a named table may be a key of
// what has the name, if it is none of the names that are left out.
func (k *Key) find(parts []string) *Key {
	switch {
	case len(parts) == 0:
		return k
	case k.Dotted:
		return k.Each
	case k.Form == FormNamed:
		if below := k.Each.find(parts); below != nil && parts[0] != "NAME" && k.Each.Form == FormTable {
			return below
		}
	}
	if child := k.child(parts[0]); child != nil {
		return child.find(parts[1:])
	}
	return nil
}

// names are the last parts of the paths of what is below a key.
func (k *Key) names() []string {
	var names []string
	for _, child := range k.Children() {
		names = append(names, child.Name())
	}
	return names
}

// Name is the last part of the path.
func (k *Key) Name() string { return k.Path[strings.LastIndexByte(k.Path, '.')+1:] }
