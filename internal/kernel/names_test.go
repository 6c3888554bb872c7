package kernel

import "testing"

func TestSysctlName(t *testing.T) {
	for _, tc := range []struct{ in, name, path string }{
		{"net.ipv4.ip_forward", "net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward"},
		{"net/ipv4/ip_forward", "net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward"},
		{"net.ipv4.conf.eth0/100.rp_filter", "net.ipv4.conf.eth0/100.rp_filter", "/proc/sys/net/ipv4/conf/eth0.100/rp_filter"},
		{"net/ipv4/conf/eth0.100/rp_filter", "net.ipv4.conf.eth0/100.rp_filter", "/proc/sys/net/ipv4/conf/eth0.100/rp_filter"},
		{"vm.overcommit_memory", "vm.overcommit_memory", "/proc/sys/vm/overcommit_memory"},
		{"", "", ""},
		{"vm", "", ""},
		{"net..x", "", ""},
		{"net.//.x", "", ""},
		{"net/../x", "", ""},
		{"../etc/passwd", "", ""},
		{"net.ipv4.a b", "", ""},
		{"/etc/passwd", "", ""},
	} {
		name, err := sysctlName(tc.in)
		if (err != nil) != (tc.name == "") || name != tc.name {
			t.Errorf("sysctlName(%q) = %q, %v; want %q", tc.in, name, err, tc.name)
		}
		if err != nil {
			continue
		}
		path, err := (&System{Proc: "/proc"}).sysctlPath(name)
		if err != nil || path != tc.path {
			t.Errorf("sysctlPath(%q) = %q, %v; want %q", name, path, err, tc.path)
		}
		if again, err := sysctlName(name); err != nil || again != name {
			t.Errorf("sysctlName(%q) = %q, %v: the canonical name changed", name, again, err)
		}
	}
}

func FuzzSysctlName(f *testing.F) {
	f.Add("net.ipv4.conf.eth0/100.rp_filter")
	f.Add("net/../../etc")
	f.Fuzz(func(t *testing.T, in string) {
		name, err := sysctlName(in)
		if err != nil {
			return
		}
		again, err := sysctlName(name)
		if err != nil || again != name {
			t.Errorf("sysctlName(%q) = %q, whose own name is %q, %v", in, name, again, err)
		}
	})
}

func TestSameParameter(t *testing.T) {
	for _, tc := range []struct {
		wanted, observed string
		same             bool
	}{
		{"1", "Y", true},
		{"yes", "Y", true},
		{"0", "Y", false},
		{"off", "N", true},
		{"2", "Y", false},
		{"0x10", "16", true},
		{"16", "16\n", true},
		{"16", "17", false},
		{"1,2", "1,2", true},
		{"a", "b", false},
		{"1", "2", false},
	} {
		if got := sameParameter(tc.wanted, tc.observed); got != tc.same {
			t.Errorf("sameParameter(%q, %q) = %v", tc.wanted, tc.observed, got)
		}
	}
}

func TestParameterLine(t *testing.T) {
	got := parameterLine(map[string]Parameter{"b": {Value: "two words"}, "a": {Value: "1"}})
	if want := `a=1 b="two words"`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
