// Package vault is the issuer that asks HashiCorp Vault, and everything that a
// cluster has there: the engines, roles, policies and auth methods, made and
// checked by an administrator, and the login, signing and secrets of a host.
//
// Words: a place is the prefix below which everything of one cluster lies; a
// role signs exactly one certificate of exactly one host; enrolment gives a new
// host its first login.
//
// Invariants:
//   - A host's token can sign that host's certificates and nothing else: names,
//     addresses, organisation, usage and lifetime are pinned by role and policy
//     and never taken from what the host asks for.
//   - No token and no secret id is part of an error, a log line or a plan.
package vault

import "strings"

// Place is where everything of one cluster lies in Vault; its value is
// hosts.Vault.Mount.
type Place string

// Engine is the path of the PKI engine of an authority, one of the layout.CA…
// constants: "nodeagent/mercury/etcd-peer".
func (p Place) Engine(ca string) string { return string(p) + "/" + ca }

// Secrets is the path of the KV v2 engine with what all control-plane hosts
// share.
func (p Place) Secrets() string { return string(p) + "/secrets" }

// Auth is the path of an auth method ("cert", "approle", "jwt") below auth/.
func (p Place) Auth(method string) string { return string(p) + "/" + method }

// Role is the name of the role, in the engine of the certificate's authority,
// that signs one certificate of one host, and nothing else. The certificate is
// one of the layout.Cert… constants.
func (p Place) Role(host, certificate string) string { return host + "." + certificate }

// Policy is the name of the policy of a host's tokens, "nodeagent:mercury:n1".
// Policies have no folders, so the place is part of the name; neither a mount
// nor a host has a colon, so that no two hosts of any two clusters share a name.
func (p Place) Policy(host string) string { return p.policyPrefix() + host }

func (p Place) policyPrefix() string { return strings.ReplaceAll(string(p), "/", ":") + ":" }

// RoleID is the role id of the AppRole of a host. It is no secret and can be
// told by anybody, so that an enrolment token is all that a new host is given.
func (p Place) RoleID(host string) string { return host }

// Secret is the path of an entry of the KV v2 engine in which a secret's
// versions are read and written.
func (p Place) Secret(name string) string { return p.Secrets() + "/data/" + name }
