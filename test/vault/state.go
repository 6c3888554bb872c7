package vault

import "time"

// patience is how long a server may take for a change of its state. A start
// takes half a second on an idle machine, ten on one that compiles.
const patience = 2 * time.Minute

// Seal seals the server: it answers every request but a few with 503.
func (s *Server) Seal() {
	s.t.Helper()
	if err := s.Client().Sys().Seal(); err != nil {
		s.t.Fatalf("seal Vault: %v", err)
	}
	s.waitSealed(true)
}

// Unseal unseals a sealed server.
func (s *Server) Unseal() {
	s.t.Helper()
	if _, err := s.Client().Sys().Unseal(s.UnsealKey); err != nil {
		s.t.Fatalf("unseal Vault: %v", err)
	}
	s.waitSealed(false)
}

// Stop ends the server's process. Connections to its address are refused.
func (s *Server) Stop() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
}

// Restart starts the server again at the same address, over the same data,
// unsealed; if it runs, it is stopped first.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	s.start()
	s.waitSealed(false)
}

// RestartSealed is Restart as real servers do it: it stays sealed.
func (s *Server) RestartSealed() {
	s.t.Helper()
	s.Stop()
	s.start("-sealed")
	s.waitSealed(true)
}

// Freeze lets the server hang: connections are made and requests taken, but
// nothing is answered until Thaw.
func (s *Server) Freeze() {
	s.t.Helper()
	s.signal(sigStop)
}

// Thaw ends Freeze. What was asked meanwhile is answered.
func (s *Server) Thaw() {
	s.t.Helper()
	s.signal(sigContinue)
}

// waitSealed waits until the server answers that it is sealed, or unsealed and
// active.
func (s *Server) waitSealed(sealed bool) {
	s.t.Helper()
	sys := s.Client().Sys()
	deadline := time.Now().Add(patience)
	for {
		health, err := sys.Health()
		if err == nil && health.Initialized && health.Sealed == sealed && (sealed || !health.Standby) {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("Vault does not become sealed=%t within %s; last answer: %+v, %v", sealed, patience, health, err)
		}
		time.Sleep(10 * time.Millisecond) // between two looks
	}
}
