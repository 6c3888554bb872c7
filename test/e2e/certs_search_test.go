package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"regexp"
	"strings"
	"testing"
)

// search finds pieces of secrets, in all the forms in which one could be sent.
// Pieces, since a secret may be cut in two by a frame's end or a line's.
type search struct {
	starts [1 << 16]bool                // by a piece's first two bytes
	pieces map[[pieceStart]byte][]piece // by its first bytes
}

type piece struct{ text, of string }

const pieceStart = 8

func newSearch() *search { return &search{pieces: map[[pieceStart]byte][]piece{}} }

func (s *search) add(of, text string) {
	s.starts[int(text[0])<<8|int(text[1])] = true
	key := [pieceStart]byte([]byte(text[:pieceStart]))
	s.pieces[key] = append(s.pieces[key], piece{text, of})
}

// addText looks for a text as a whole, and for the second half of a long one:
// Vault's tokens begin alike.
func (s *search) addText(of, text string) {
	s.add(of, text)
	if len(text) >= 64 {
		s.add(of, text[len(text)/2:])
	}
}

// addKey looks for a secret's bytes, in hexadecimal, and in base64 at any
// place in what was encoded.
func (s *search) addKey(of string, secret []byte) {
	const half = 16
	for at := 0; at+half <= len(secret); at += half {
		raw := secret[at : at+half]
		s.add(of, string(raw))
		s.add(of, hex.EncodeToString(raw))
		s.add(of, strings.ToUpper(hex.EncodeToString(raw)))
	}
	for shift := range 3 {
		for _, coding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			text := coding.EncodeToString(append(make([]byte, shift), secret...))
			// What its neighbours have a part in is left out.
			text = text[(shift*8+5)/6 : len(text)-1]
			for at := 0; at+20 <= len(text); at += 20 {
				s.add(of, text[at:at+20])
			}
		}
	}
}

// in is what is found, each once.
func (s *search) in(content []byte) map[string]bool {
	found := map[string]bool{}
	for at := 0; at+pieceStart <= len(content); at++ {
		if !s.starts[int(content[at])<<8|int(content[at+1])] {
			continue
		}
		for _, p := range s.pieces[[pieceStart]byte(content[at:])] {
			if bytes.HasPrefix(content[at:], []byte(p.text)) {
				found[p.of] = true
			}
		}
	}
	return found
}

// inBase64 is what may be whole files in base64.
var inBase64 = regexp.MustCompile(`[A-Za-z0-9+/]{40,}`)

// deep is what is found in a text, and in what it has in base64: files are kept
// so in Vault and in kubeconfigs, with PEM inside.
func (s *search) deep(text []byte) map[string]bool {
	text = unwrapped(text)
	found := s.in(text)
	for _, run := range inBase64.FindAll(text, -1) {
		if inner, err := base64.RawStdEncoding.DecodeString(string(run)); err == nil {
			maps.Copy(found, s.in(unwrapped(inner)))
		}
	}
	return found
}

// TestSearch: a secret is found in whatever form, whole or cut.
func TestSearch(t *testing.T) {
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		t.Fatal(err)
	}
	s := newSearch()
	s.addKey("it", secret)
	forms := map[string][]byte{
		"bytes": secret, "first half": secret[:16], "second half": secret[16:], "cut near an end": secret[:29],
		"hexadecimal": []byte(hex.EncodeToString(secret)), "capitals": []byte(strings.ToUpper(hex.EncodeToString(secret))),
	}
	for before := range 5 {
		text := append(append(make([]byte, before), secret...), "after"...)
		forms[fmt.Sprintf("base64 after %d", before)] = []byte(base64.StdEncoding.EncodeToString(text))
		forms[fmt.Sprintf("base64 for URLs after %d", before)] = []byte(base64.URLEncoding.EncodeToString(text))
	}
	for name, form := range forms {
		if !s.in(append([]byte("before "), form...))["it"] {
			t.Errorf("not found as %s", name)
		}
	}
	der := append([]byte("what stands before a key in DER"), secret...)
	file := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	line, err := json.Marshal(map[string]string{"file": string(file), "kept": base64.StdEncoding.EncodeToString(file)})
	if err != nil {
		t.Fatal(err)
	}
	var kept map[string]string
	read(t, string(line), &kept)
	for name, text := range map[string]string{"PEM": string(file), "PEM in JSON": string(line), "PEM in base64": kept["kept"]} {
		if !s.deep([]byte(text))["it"] {
			t.Errorf("not found in %s", name)
		}
	}
	other := bytes.Repeat([]byte("nothing of it"), 100)
	if found := s.in(other); len(found) > 0 {
		t.Errorf("found %v in something else", found)
	}
}

// unwrapped is text without the line ends that PEM has in its middle, as they
// are and as JSON has them.
func unwrapped(text []byte) []byte {
	return bytes.ReplaceAll(bytes.ReplaceAll(text, []byte(`\n`), nil), []byte("\n"), nil)
}
