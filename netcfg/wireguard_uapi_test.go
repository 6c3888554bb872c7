package netcfg

import (
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// compareReadings compares all that devices say.
var compareReadings = cmp.Options{
	cmpopts.EquateEmpty(),
	cmp.AllowUnexported(wireGuardReading{}, peerReading{}),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

// uapiText is a device's answer as wireguard-go writes it.
const uapiText = `private_key=e84b5a6d2717c1003a13b431570353dbaca9146cf150c5f8575680feba52027a
listen_port=12912
fwmark=1
public_key=b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33
preshared_key=188515093e952f5f22e865cef3012e72f8b5f0b598ac0309d5dacce3b70fcf52
protocol_version=1
endpoint=[fe80::33%lo]:51820
last_handshake_time_sec=1700000000
last_handshake_time_nsec=250
tx_bytes=38333
rx_bytes=9223372036854775807
persistent_keepalive_interval=65535
allowed_ip=192.168.4.4/32
allowed_ip=::ffff:10.0.0.0/104
public_key=58402e695ba1772b1cc9309755f043251ea77fdcf10fbe63989ceb7e19321376
preshared_key=0000000000000000000000000000000000000000000000000000000000000000
endpoint=182.122.22.19:3233
last_handshake_time_sec=0
last_handshake_time_nsec=0
tx_bytes=0
rx_bytes=0
persistent_keepalive_interval=0
public_key=662e14fd594556f522604703340351258903b64f35553763f19426ab2a515c58
allowed_ip=192.168.4.10/32
allowed_ip=0.0.0.0/0
allowed_ip=2001:db8::/32
a_key_of_the_future=whatever
errno=0

`

func hexKey(t testing.TB, text string) (key wgtypes.Key) {
	t.Helper()
	if err := uapiKey(&key, []byte(text)); err != nil {
		t.Fatal(err)
	}
	return key
}

func TestReadUAPI(t *testing.T) {
	peers := []string{
		"b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33",
		"58402e695ba1772b1cc9309755f043251ea77fdcf10fbe63989ceb7e19321376",
		"662e14fd594556f522604703340351258903b64f35553763f19426ab2a515c58",
	}
	want := &wireGuardReading{
		privateKey: hexKey(t, "e84b5a6d2717c1003a13b431570353dbaca9146cf150c5f8575680feba52027a"), port: 12912,
		peers: []peerReading{
			{
				publicKey: hexKey(t, peers[0]), preshared: hexKey(t, "188515093e952f5f22e865cef3012e72f8b5f0b598ac0309d5dacce3b70fcf52"),
				endpoint:  netip.MustParseAddrPort("[fe80::33%lo]:51820"),
				handshake: time.Unix(1700000000, 250), sent: 38333, received: 1<<63 - 1, keepalive: 65535 * time.Second,
				allowed: []netip.Prefix{netip.MustParsePrefix("192.168.4.4/32"), netip.MustParsePrefix("::ffff:10.0.0.0/104")},
			},
			{publicKey: hexKey(t, peers[1]), endpoint: netip.MustParseAddrPort("182.122.22.19:3233")},
			{publicKey: hexKey(t, peers[2]), allowed: []netip.Prefix{
				netip.MustParsePrefix("192.168.4.10/32"), netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("2001:db8::/32"),
			}},
		},
	}
	got, err := readUAPI(strings.NewReader(uapiText))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, compareReadings); diff != "" {
		t.Errorf("other than expected (-want +got):\n%s", diff)
	}
	if got, err = readUAPI(iotest.OneByteReader(strings.NewReader(uapiText))); err != nil || !cmp.Equal(want, got, compareReadings) {
		t.Errorf("a slow device is read otherwise: %v", err)
	}
	// However the answer breaks off, it is not a device with fewer peers.
	for n := range len(uapiText) {
		if _, err := readUAPI(strings.NewReader(uapiText[:n])); err == nil {
			t.Fatalf("read although it breaks off after %d bytes: ...%q", n, uapiText[max(0, n-20):n])
		}
	}
}

func TestReadUAPIBad(t *testing.T) {
	key := strings.Repeat("ab", 32)
	for _, tc := range []struct{ text, want string }{
		{"", "unexpected EOF"},
		{"\n", "without errno"},
		{"errno=-22\n\n", "error -22"},
		{"errno=1\n\n", "error 1"},
		{"errno=\n\n", "errno"},
		{"listen_port=65536\nerrno=0\n\n", `"listen_port"`},
		{"listen_port=-1\nerrno=0\n\n", `"listen_port"`},
		{"listen_port=\nerrno=0\n\n", `"listen_port"`},
		{"private_key=" + key[1:] + "\nerrno=0\n\n", "not a key"},
		{"private_key=" + key[1:] + "g\nerrno=0\n\n", "not a key"},
		{"private_key=" + key + "=\nerrno=0\n\n", "not key=value"},
		{"private_key\nerrno=0\n\n", "not key=value"},
		{"public_key=" + key + "\nendpoint=example.org:51820\nerrno=0\n\n", `"endpoint"`},
		{"public_key=" + key + "\nendpoint=192.0.2.1:65536\nerrno=0\n\n", `"endpoint"`},
		{"public_key=" + key + "\nendpoint=192.0.2.256:1\nerrno=0\n\n", `"endpoint"`},
		{"public_key=" + key + "\nendpoint=192.0.02.1:1\nerrno=0\n\n", `"endpoint"`},
		{"public_key=" + key + "\nallowed_ip=192.0.2.0/33\nerrno=0\n\n", `"allowed_ip"`},
		{"public_key=" + key + "\nallowed_ip=192.0.2/24\nerrno=0\n\n", `"allowed_ip"`},
		{"public_key=" + key + "\nallowed_ip=192.0.2.0\nerrno=0\n\n", `"allowed_ip"`},
		{"public_key=" + key + "\nallowed_ip=2001:db8::/129\nerrno=0\n\n", `"allowed_ip"`},
		{"public_key=" + key + "\nrx_bytes=9223372036854775808\nerrno=0\n\n", `"rx_bytes"`},
		{"public_key=" + key + "\nlast_handshake_time_nsec=1000000000\nerrno=0\n\n", `"last_handshake_time_nsec"`},
		{"public_key=" + key + "\npersistent_keepalive_interval=65536\nerrno=0\n\n", `"persistent_keepalive_interval"`},
		{"x=" + strings.Repeat("y", uapiLine) + "\nerrno=0\n\n", "buffer full"},
	} {
		device, err := readUAPI(strings.NewReader(tc.text))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%.80q: error %v, want one with %q", tc.text, err, tc.want)
		}
		if device != nil {
			t.Errorf("%.80q: a device came with the error", tc.text)
		}
		if err != nil && strings.Contains(err.Error(), key[2:]) {
			t.Errorf("%.80q: the error shows a key: %v", tc.text, err)
		}
	}
}

// TestReadUAPIManyAllowed: addresses of many peers share memory, and none
// sees another's.
func TestReadUAPIManyAllowed(t *testing.T) {
	var text strings.Builder
	want := &wireGuardReading{}
	for n := range 40 {
		key := wireGuardPublic(byte(n))
		p := peerReading{publicKey: key}
		text.WriteString("public_key=" + hexText(key) + "\n")
		for i := range n * n {
			prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n), byte(i >> 8), byte(i)}), 32)
			text.WriteString("allowed_ip=" + prefix.String() + "\n")
			p.allowed = append(p.allowed, prefix)
		}
		want.peers = append(want.peers, p)
	}
	got, err := readUAPI(strings.NewReader(text.String() + "errno=0\n\n"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, compareReadings); diff != "" {
		t.Errorf("other than expected (-want +got):\n%s", diff)
	}
	for i := range got.peers {
		_ = append(got.peers[i].allowed, netip.MustParsePrefix("::/0"))
	}
	if diff := cmp.Diff(want, got, compareReadings); diff != "" {
		t.Errorf("a peer's addresses reach into the next one's (-want +got):\n%s", diff)
	}
}
