# An administrator of cluster mercury: `nodeagent pki bootstrap`, `check` and `token`.

# engines, methods and audit devices that are there
path "sys/mounts" {
  capabilities = ["read"]
}

path "sys/auth" {
  capabilities = ["read"]
}

path "sys/audit" {
  capabilities = ["read", "sudo"]
}

# the cluster's engines and methods
path "sys/mounts/nodeagent/mercury/*" {
  capabilities = ["create", "read", "update"]
}

path "sys/auth/nodeagent/mercury/*" {
  capabilities = ["sudo", "create", "read", "update"]
}

# the policies of its hosts
path "sys/policies/acl" {
  capabilities = ["list"]
}

path "sys/policies/acl/nodeagent:mercury:*" {
  capabilities = ["create", "read", "update", "delete", "list"]
}

# inside the engines: settings, authorities, roles
path "nodeagent/mercury/+/config/*" {
  capabilities = ["create", "read", "update"]
}

path "nodeagent/mercury/secrets/config" {
  capabilities = ["create", "read", "update"]
}

path "nodeagent/mercury/+/issuers/" {
  capabilities = ["list"]
}

path "nodeagent/mercury/+/keys/" {
  capabilities = ["list"]
}

path "nodeagent/mercury/+/issuer/+" {
  capabilities = ["read", "delete"]
}

path "nodeagent/mercury/+/root/generate/internal" {
  capabilities = ["update"]
}

path "nodeagent/mercury/+/intermediate/generate/+" {
  capabilities = ["update"]
}

path "nodeagent/mercury/+/intermediate/set-signed" {
  capabilities = ["update"]
}

path "nodeagent/mercury/+/roles/" {
  capabilities = ["list"]
}

path "nodeagent/mercury/+/roles/*" {
  capabilities = ["create", "read", "update", "delete", "list"]
}

# changing a CA: `nodeagent certs rotate-ca`
path "nodeagent/mercury/+/root/rotate/internal" {
  capabilities = ["update"]
}

path "nodeagent/mercury/+/root/replace" {
  capabilities = ["update"]
}

path "nodeagent/mercury/+/key/+" {
  capabilities = ["read", "delete"]
}

# taking over from the local issuer: `pki bootstrap --adopt`
path "nodeagent/mercury/+/issuers/import/bundle" {
  capabilities = ["update"]
}

path "nodeagent/mercury/secrets/data/changes/+" {
  capabilities = ["create", "read", "update", "delete", "list"]
}

path "nodeagent/mercury/secrets/metadata/changes/+" {
  capabilities = ["delete"]
}

# changing a key: `nodeagent certs rotate-key`; `pki bootstrap --adopt`
path "nodeagent/mercury/secrets/data/encryption" {
  capabilities = ["create", "read", "update"]
}

path "nodeagent/mercury/secrets/data/service-account" {
  capabilities = ["create", "read", "update"]
}

path "nodeagent/mercury/secrets/destroy/service-account" {
  capabilities = ["update"]
}

# a new version of the key that encrypts snapshots (snapshots.vault_key)
path "nodeagent/mercury/secrets/data/snapshots*" {
  capabilities = ["create", "read", "update"]
}

path "nodeagent/mercury/secrets/metadata/hosts" {
  capabilities = ["list"]
}

path "nodeagent/mercury/secrets/data/hosts/+" {
  capabilities = ["read"]
}

# the signing trial of `pki check`
path "nodeagent/mercury/+/sign/+" {
  capabilities = ["update"]
}

# who logs in, and enrolment tokens
path "auth/nodeagent/mercury/*" {
  capabilities = ["create", "read", "update", "delete", "list"]
}
