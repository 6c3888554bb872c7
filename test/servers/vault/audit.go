//go:build !vault1.13

package main

import "github.com/hashicorp/vault/audit"

// auditFile makes the audit device that writes to a file.
var auditFile audit.Factory = audit.NewFileBackend
