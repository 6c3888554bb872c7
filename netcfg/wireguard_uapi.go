package netcfg

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// uapiLine is more than the longest line of a device's answer.
const uapiLine = 64 << 10

// readUAPI reads a userspace device's answer to "get=1"
// (https://www.wireguard.com/xplatform, configuration protocol). It does so line
// by line while the device still writes, and allocates next to nothing for each
// peer: a device with 1,000 peers answers in 9,000 lines. Keys that it does not
// know are left out. An answer that breaks off is an error, never a device with
// fewer peers. Errors hold no secret: they name a line's key and not its value.
func readUAPI(r io.Reader) (*wireGuardReading, error) {
	var reader uapiReader
	lines := bufio.NewReaderSize(r, uapiLine)
	for {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, fmt.Errorf("read the device's answer: %w", err)
		}
		line = line[:len(line)-1]
		if len(line) == 0 {
			break
		}
		key, value, found := bytes.Cut(line, []byte("="))
		if !found || bytes.IndexByte(value, '=') >= 0 {
			return nil, errors.New("read the device's answer: a line is not key=value")
		}
		if err := reader.line(key, value); err != nil {
			return nil, fmt.Errorf("read the device's answer, %q: %w", key, err)
		}
	}
	if !reader.status {
		return nil, errors.New("read the device's answer: it ends without errno")
	}
	reader.end()
	return &reader.device, nil
}

// uapiReader gathers the lines of an answer.
type uapiReader struct {
	readingBuilder
	status bool // errno was read, and is 0
	// The latest handshake of the last peer.
	seconds, nanoseconds int64
}

// line reads one line of the answer.
func (r *uapiReader) line(key, value []byte) (err error) {
	if string(key) == "public_key" {
		r.end()
		r.seconds, r.nanoseconds = 0, 0
		return uapiKey(&r.begin().publicKey, value)
	}
	if string(key) == "errno" {
		return r.errno(value)
	}
	if p := r.last(); p != nil {
		return r.peerLine(p, key, value)
	}
	switch string(key) {
	case "private_key":
		return uapiKey(&r.device.privateKey, value)
	case "listen_port":
		var port int64
		port, err = uapiNumber(value, 1<<16-1)
		r.device.port = int(port)
	}
	return err
}

func (r *uapiReader) peerLine(p *peerReading, key, value []byte) (err error) {
	switch string(key) {
	case "preshared_key":
		return uapiKey(&p.preshared, value)
	case "endpoint":
		p.endpoint, err = uapiEndpoint(value)
	case "last_handshake_time_sec":
		r.seconds, err = uapiNumber(value, maxInt64)
		p.handshake = unixTime(r.seconds, r.nanoseconds)
	case "last_handshake_time_nsec":
		r.nanoseconds, err = uapiNumber(value, int64(time.Second)-1)
		p.handshake = unixTime(r.seconds, r.nanoseconds)
	case "tx_bytes":
		p.sent, err = uapiNumber(value, maxInt64)
	case "rx_bytes":
		p.received, err = uapiNumber(value, maxInt64)
	case "persistent_keepalive_interval":
		var seconds int64
		seconds, err = uapiNumber(value, 1<<16-1)
		p.keepalive = time.Duration(seconds) * time.Second
	case "allowed_ip":
		var prefix netip.Prefix
		prefix, err = uapiPrefix(value)
		r.allow(prefix)
	}
	return err
}

// errno reads the status with which an answer ends: 0, or an errno value, which
// some programs send negated.
func (r *uapiReader) errno(value []byte) error {
	status, err := strconv.Atoi(string(value))
	if err == nil && status != 0 {
		err = fmt.Errorf("the device refused to answer: error %d", status)
	}
	r.status = err == nil
	return err
}

var (
	errUAPIKey    = errors.New("the value is not a key of 64 hexadecimal digits")
	errUAPINumber = errors.New("the value is not a number, or too large")
)

func uapiKey(to *wgtypes.Key, value []byte) error {
	if len(value) != hex.EncodedLen(len(to)) {
		return errUAPIKey
	}
	if _, err := hex.Decode(to[:], value); err != nil {
		return errUAPIKey
	}
	return nil
}

const maxInt64 = 1<<63 - 1

// uapiNumber reads a decimal number from 0 to most.
func uapiNumber(value []byte, most int64) (n int64, err error) {
	if len(value) == 0 {
		return 0, errUAPINumber
	}
	for _, c := range value {
		digit := int64(c) - '0'
		if digit < 0 || digit > 9 || n > (most-digit)/10 {
			return 0, errUAPINumber
		}
		n = n*10 + digit
	}
	return n, nil
}

func uapiEndpoint(value []byte) (netip.AddrPort, error) {
	if colon := bytes.IndexByte(value, ':'); colon > 0 {
		if a, ok := uapiIPv4(value[:colon]); ok {
			port, err := uapiNumber(value[colon+1:], 1<<16-1)
			return netip.AddrPortFrom(a, uint16(port)), err
		}
	}
	endpoint, err := netip.ParseAddrPort(string(value))
	return netip.AddrPortFrom(endpoint.Addr().Unmap(), endpoint.Port()), err
}

func uapiPrefix(value []byte) (netip.Prefix, error) {
	if slash := bytes.IndexByte(value, '/'); slash > 0 {
		if a, ok := uapiIPv4(value[:slash]); ok {
			bits, err := uapiNumber(value[slash+1:], 32)
			return netip.PrefixFrom(a, int(bits)).Masked(), err
		}
	}
	prefix, err := netip.ParsePrefix(string(value))
	return prefix.Masked(), err
}

// uapiIPv4 reads a.b.c.d without the string that [netip.ParseAddr] takes; not ok
// where it is anything else, for which that one has the error.
func uapiIPv4(text []byte) (netip.Addr, bool) {
	var address [4]byte
	for i := range address {
		part := text
		if dot := bytes.IndexByte(text, '.'); i < 3 {
			if dot < 0 {
				return netip.Addr{}, false
			}
			part, text = text[:dot], text[dot+1:]
		}
		n, err := uapiNumber(part, 255)
		if err != nil || len(part) > 1 && part[0] == '0' {
			return netip.Addr{}, false
		}
		address[i] = byte(n)
	}
	return netip.AddrFrom4(address), true
}
