package e2e

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/nodeagent/nodeagent/test/lab"
)

// dnsServer is a DNS server on the wire. It knows one address for every name
// within a domain, so that an answer tells which server gave it.
type dnsServer struct {
	domain string
	answer netip.Addr

	mu    sync.Mutex
	asked []string
}

// newDNSServer serves until the test ends. The address is one of the wire's.
func newDNSServer(t *testing.T, ctx context.Context, l *lab.Lab, address, domain, answer string) *dnsServer {
	t.Helper()
	conn, err := l.ListenWire(ctx, "udp", net.JoinHostPort(address, "53"))
	if err != nil {
		t.Fatal(err)
	}
	s := &dnsServer{domain: domain, answer: netip.MustParseAddr(answer)}
	var serving sync.WaitGroup
	serving.Go(func() { s.serve(conn) })
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		serving.Wait()
	})
	return s
}

func (s *dnsServer) serve(conn net.PacketConn) {
	packet := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(packet)
		if err != nil {
			return // closed
		}
		if reply, err := s.reply(packet[:n]); err == nil {
			_, _ = conn.WriteTo(reply, from) // a lost reply is asked for again
		}
	}
}

// reply answers the one question of a query.
func (s *dnsServer) reply(query []byte) ([]byte, error) {
	var parser dnsmessage.Parser
	header, err := parser.Start(query)
	if err != nil {
		return nil, err
	}
	question, err := parser.Question()
	if err != nil {
		return nil, err
	}
	name := strings.ToLower(strings.TrimSuffix(question.Name.String(), "."))
	s.mu.Lock()
	s.asked = append(s.asked, name)
	s.mu.Unlock()
	reply := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: header.ID, Response: true, Authoritative: true, RecursionAvailable: true, RecursionDesired: header.RecursionDesired},
		Questions: []dnsmessage.Question{question},
	}
	switch {
	case !strings.HasSuffix(name, "."+s.domain):
		reply.RCode = dnsmessage.RCodeNameError
	case question.Type == dnsmessage.TypeA:
		reply.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: question.Name, Class: question.Class}, // a TTL of 0: never kept
			Body:   &dnsmessage.AResource{A: s.answer.As4()},
		}}
	}
	return reply.Pack()
}

// wasAsked tells whether somebody asked for the name.
func (s *dnsServer) wasAsked(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.asked, name)
}
