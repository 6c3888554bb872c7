package hosts

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// Every key that files may hold is in the reference, and no other.
func TestReferenceIsComplete(t *testing.T) {
	documented, _ := readDocs()
	reference().walk(func(k *Key) bool {
		doc, ok := documented[k.Path]
		chosen := strings.HasSuffix(k.Path, ".NAME") && (k.Form == FormTable || k.Form == FormNamed)
		switch {
		case ok && doc.Meaning == "":
			t.Errorf("hosts/reference does not say what %s means", k.Path)
		case ok && k.Example == nil && k.Meaning != "":
			t.Errorf("hosts/reference has no example of %s", k.Path)
		case !ok && !chosen:
			t.Errorf("hosts/reference does not know %s (%s, file %s)", k.Path, k.Type(), k.File)
		}
		if ok && !releasePattern.MatchString(doc.Since) {
			t.Errorf("%s is since %q, which is no release such as \"0.2\"", k.Path, doc.Since)
		}
		return true
	})
	if files, err := referenceFiles.ReadDir("reference"); err != nil || len(files) != len(groups) {
		t.Errorf("hosts/reference has %d files, %d of them in groups: %v", len(files), len(groups), err)
	}
	for path := range documented {
		if k := Lookup(path); k == nil || k.Path != path {
			t.Errorf("hosts/reference knows %s, the schema does not", path)
		}
	}
}

var releasePattern = regexp.MustCompile(`^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)$`)

// The reference says what happens where a key is not there, and names every
// word that a key may be.
func TestReferenceSaysAll(t *testing.T) {
	for k := range AllKeys() {
		value := k.Form == FormValue || k.Form == FormList && k.Each.Form == FormValue
		if value && k.Default == nil && k.Unset == "" {
			t.Errorf("hosts/reference says nothing of %s where no file does", k.Path)
		}
		if k.Default != nil && k.Unset != "" && !strings.HasPrefix(k.Unset, "`"+TOML(k.Default)+"`") {
			t.Errorf("%s: unset = %q does not begin with the default, `%s`", k.Path, k.Unset, TOML(k.Default))
		}
		words := k.Words
		if k.Each != nil {
			words = append(words, k.Each.Words...)
		}
		for _, w := range words {
			if strings.HasPrefix(k.Path, "drift.") { // said once, of the first
				k = Lookup("drift.kernel")
			}
			if !strings.Contains(k.Meaning, `"`+w+`"`) {
				t.Errorf("the meaning of %s does not name %q", k.Path, w)
			}
		}
		for _, name := range k.NameWords {
			if below := k.Meaning + k.Each.Meaning; !strings.Contains(below, "`"+name+"`") {
				t.Errorf("the meaning of %s does not name `%s`", k.Path, name)
			}
		}
	}
}

// What a worker gets by itself is said in the prose around the tables.
func TestReferenceNamesSysctls(t *testing.T) {
	text, err := os.ReadFile("../docs/spec.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range workerSysctls {
		if !strings.Contains(string(text), "`"+name+" = "+value+"`") {
			t.Errorf("docs/spec.md does not name the default %s = %s", name, value)
		}
	}
}

// Each example is what the loader takes in every file that may hold the key; a
// table's in one of them, since it shows keys of one file alone. It holds the key.
func TestReferenceExamples(t *testing.T) {
	for k := range AllKeys() {
		files := map[string][]scope{"any": {clusterFile, hostFile}, "cluster": {clusterFile}, "host": {hostFile}}[k.File]
		var refused []Problem
		taken := 0
		for _, file := range files {
			tree, problems := checkText(k.Snippet(), file)
			refused = append(refused, problems...)
			if len(problems) == 0 {
				taken++
			}
			if tree != nil && !holds(tree, strings.Split(k.Path, ".")) {
				t.Errorf("the example of %s does not have it:\n%s", k.Path, k.Snippet())
			}
		}
		_, text := k.Example.(string)
		if taken == 0 || taken < len(files) && (!text || k.Form == FormValue) {
			t.Errorf("example of %s: %v\n%s", k.Path, refused, k.Snippet())
		}
	}
}

// checkText checks a text as the file of a fleet by itself.
func checkText(text string, file scope) (*node, []Problem) {
	tree, problem := parseTree("example.toml", text)
	if problem != nil {
		return nil, []Problem{*problem}
	}
	f := &findings{}
	(&loader{findings: f}).checkSecrets(tree, "")
	checker{f, file}.check(tree, schema())
	return tree, f.problems
}

// holds tells whether a tree has a value at a path, any name standing for NAME.
func holds(n *node, path []string) bool {
	if n == nil || len(path) == 0 {
		return n != nil
	}
	for _, item := range n.list {
		if holds(item, path) {
			return true
		}
	}
	if path[0] != "NAME" {
		return holds(n.table[path[0]], path[1:])
	}
	for _, child := range n.table {
		if holds(child, path[1:]) {
			return true
		}
	}
	return false
}
