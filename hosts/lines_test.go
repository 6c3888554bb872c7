package hosts

import (
	"strings"
	"testing"
)

// In each document every value is the number of the line on which its key
// stands, or, in an array, on which it stands itself.
func TestLines(t *testing.T) {
	for name, text := range map[string]string{
		"tables": `
a = 2
[t]
b = 4
c.d = 5
"quoted key" = 6
'literal.key' = 7
"esc\u0041ped\t" = 8
[t.u."v.w"]
e = 10 # comment [x]

[[l]]
f = 13
[[l]]
f = 15
[l.sub]
g = 17
[[l.deep]]
h = 19
[[l.deep]]
h = 21
`,
		"arrays and inline tables": `a = [
  2, 3 , # ] comment
  3,
].
`,
		"strings": `a = """
one \""" # "
two""""
b = 4
c = '''
x
'''''
d = 8
e = "a # b ] \" \\"
f = 10
g = 'a\'
h = 12
i = """x\
   y"""
j = 15
k = ""
l = ''
m = 18
n = """"""
o = 20
`,
		"inline tables": `a = { b = 1, c = [1, { d = 1 }], "e.f".g = 1 }
h = [ { i = 2 },
  { i = 3, j = { k = 3 } } ]
l = {
  m = 5, # }
  n = 6,
}
o = 8
`,
		"windows line ends": "a = 1\r\n\r\n[b]\r\nc = 4\r\nd = [\r\n6,\r\n7]\r\n",
		"byte order mark":   "\ufeffa = 1\n\nb = 3\n",
	} {
		t.Run(name, func(t *testing.T) {
			if name == "arrays and inline tables" {
				text = strings.Replace(strings.Replace(text, "].", "]", 1), "2, 3 ,", "2, 2,", 1)
			}
			tree, problem := parseTree("f", text)
			if problem != nil {
				t.Fatal(problem)
			}
			seen := 0
			var walk func(n *node)
			walk = func(n *node) {
				if v, ok := n.value.(int64); ok {
					seen++
					if n.line != int(v) {
						t.Errorf("%s is placed on line %d, it is on line %d", n.path, n.line, v)
					}
				}
				for _, child := range n.table {
					walk(child)
				}
				for _, item := range n.list {
					walk(item)
				}
			}
			walk(tree)
			if seen < 2 {
				t.Errorf("only %d values were looked at", seen)
			}
		})
	}
}

// A header says more about a table than the first key that implies it.
func TestLineOfTable(t *testing.T) {
	tree, problem := parseTree("f", "[a.b]\nx = 1\n\n[a]\ny = 1\n[[c]]\n[[c]]\n")
	if problem != nil {
		t.Fatal(problem)
	}
	for path, line := range map[string]int{"a": 4, "a.b": 1, "a.b.x": 2, "a.y": 5, "c": 6} {
		if got := tree.get(path).line; got != line {
			t.Errorf("%s is placed on line %d, want %d", path, got, line)
		}
	}
	if got := tree.get("c").list[1].line; got != 7 {
		t.Errorf("the second [[c]] is placed on line %d", got)
	}
}

func TestSyntaxProblemsHaveTheirLine(t *testing.T) {
	for _, row := range []struct {
		text string
		want string
	}{
		{"[etcd\n", "f:1: not valid TOML: expected '.' or ']' to end table name, but got '\\n' instead"},
		{"a=1\n[etcd]\nb = \nc=1\n", "f:3: not valid TOML: expected value but found '\\n' instead"},
		{"x = \"abc\ny=1\n", "f:1: not valid TOML: strings cannot contain newlines"},
		{"x=[1,\n2\ny=3\n", "f:3: not valid TOML: expected a comma (',') or array terminator (']'), but got 'y'"},
		{"a=1\na=2\n", "f:2: not valid TOML: key 'a' has already been defined"},
		{"a=1\nb=01\n", "f:2: not valid TOML: invalid integer \"01\": cannot have leading zeroes"},
		{"a=1\n[b]\n[b]\n", "f:3: not valid TOML: key 'b' has already been defined"},
		{"a.b=1\na=2\n", "f:2: a: not valid TOML: the key has a value already"},
		{"\ufeffa=1\nb=\n", "f:2: not valid TOML: expected value but found '\\n' instead"},
		{"a = \"\xff\"\n", "f:1: not valid TOML: invalid UTF-8 byte: 0xff"},
		{"a=1\ntoken = hvs.CAESI\n", "f:2: not valid TOML"},
		{"a=1\nx = hvs.CAESI\n", "f:2: not valid TOML"},
	} {
		_, problem := parseTree("f", row.text)
		if problem == nil {
			t.Errorf("%q is accepted", row.text)
			continue
		}
		if problem.String() != row.want {
			t.Errorf("%q:\n got %s\nwant %s", row.text, problem, row.want)
		}
	}
}

func TestSecretNames(t *testing.T) {
	for name, want := range map[string]bool{
		"token": true, "password": true, "private_key": true, "privateKey": true, "PrivateKey": true, "privatekey": true,
		"preshared_key": true, "PresharedKey": true, "registry-password": true, "identitytoken": false, "identityToken": true,
		"secretAccessKey": true, "secret": true, "client_secret": true, "SECRET_ID": true, "psk": true,
		"token_file": false, "token-auth-file": false, "tokens": false, "public_key": false, "key_type": false,
		"service-account-key-file": false, "secretRef": false, "tokenization": false, "": false,
	} {
		if got := isSecretName(name); got != want {
			t.Errorf("isSecretName(%q) is %v", name, got)
		}
	}
}

func TestDidYouMean(t *testing.T) {
	words := []string{"pod_range", "service_range", "endpoint", "cni"}
	for word, want := range map[string]string{
		"pod_rnage": ` (did you mean "pod_range"?)`, "endpiont": ` (did you mean "endpoint"?)`, "cnn": ` (did you mean "cni"?)`,
		"podrange": ` (did you mean "pod_range"?)`, "x": "", "": "", "banana": "",
	} {
		if got := didYouMean(word, words); got != want {
			t.Errorf("didYouMean(%q) is %q, want %q", word, got, want)
		}
	}
}
