package units

import (
	"slices"
	"testing"
)

const service = Header + `
[Unit]
Description=x
[Service]
ExecStart=/bin/x
Environment=PATH=/bin
[Install]
WantedBy=multi-user.target
`

func TestInputsGoInAndComeOut(t *testing.T) {
	for name, content := range map[string]string{
		"service":             service,
		"section last":        Header + "\n[Service]\n",
		"no service section":  Header + "\n[Mount]\nWhat=x\n",
		"section in the text": Header + "\n[Service]\nExecStart=/bin/echo \\\n   [Service]x\n",
	} {
		for _, inputs := range []string{"", "sha256:0123abcd"} {
			file := withInputs(content, inputs)
			gotContent, gotInputs := splitInputs(file)
			want := carried(Unit{Content: content, Inputs: inputs})
			if gotContent != content || gotInputs != want {
				t.Errorf("%s with %q: got back %q and %q", name, inputs, gotContent, gotInputs)
			}
			if !ours(file) {
				t.Errorf("%s with %q: header lost", name, inputs)
			}
		}
	}
}

func TestInstallLinks(t *testing.T) {
	for _, tc := range []struct {
		content string
		want    []string
	}{
		{service, []string{"multi-user.target.wants"}},
		{"[Install]\nWantedBy = b.target a.target\nRequiredBy=c.target\nWantedBy=a.target\n", []string{"a.target.wants", "b.target.wants", "c.target.requires"}},
		{"[Unit]\nWantedBy=x.target\n", nil},
		{"[Install]\nAlias=y.service\n[Service]\nWantedBy=z.target\n", nil},
		{"", nil},
	} {
		if got := installLinks(tc.content); !slices.Equal(got, tc.want) {
			t.Errorf("%q: got %q, want %q", tc.content, got, tc.want)
		}
	}
}

func TestOurs(t *testing.T) {
	for content, want := range map[string]bool{
		service: true, "": false, "[Unit]\n": false, "\n" + Header: false, Header + " x\n": false, Header: true,
	} {
		if got := ours(content); got != want {
			t.Errorf("%q: ours is %v", content, got)
		}
	}
}
