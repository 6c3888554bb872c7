# Host w1 of cluster mercury, made by `nodeagent pki bootstrap`.

path "nodeagent/mercury/k8s-client/sign/w1.kube-proxy" {
  capabilities = ["update"]
  allowed_parameters = {
    "common_name" = ["system:kube-proxy"]
    "csr" = []
    "exclude_cn_from_sans" = [true]
    "format" = ["pem"]
  }
  required_parameters = ["common_name", "exclude_cn_from_sans", "format", "csr"]
}

path "nodeagent/mercury/k8s-client/sign/w1.kubelet-client" {
  capabilities = ["update"]
  allowed_parameters = {
    "common_name" = ["system:node:w1"]
    "csr" = []
    "exclude_cn_from_sans" = [true]
    "format" = ["pem"]
  }
  required_parameters = ["common_name", "exclude_cn_from_sans", "format", "csr"]
}

path "nodeagent/mercury/k8s-server/sign/w1.kubelet-server" {
  capabilities = ["update"]
  allowed_parameters = {
    "alt_names" = ["w1"]
    "common_name" = ["system:node:w1"]
    "csr" = []
    "exclude_cn_from_sans" = [true]
    "format" = ["pem"]
    "ip_sans" = ["192.0.2.11"]
  }
  required_parameters = ["alt_names", "common_name", "exclude_cn_from_sans", "format", "ip_sans", "csr"]
}

path "nodeagent/mercury/nodeagent/sign/w1.nodeagent" {
  capabilities = ["update"]
  allowed_parameters = {
    "common_name" = ["w1"]
    "csr" = []
    "exclude_cn_from_sans" = [true]
    "format" = ["pem"]
  }
  required_parameters = ["common_name", "exclude_cn_from_sans", "format", "csr"]
}

# whoever has the key of a certificate may revoke it
path "nodeagent/mercury/k8s-server/revoke-with-key" {
  capabilities = ["update"]
}

# whoever has the key of a certificate may revoke it
path "nodeagent/mercury/k8s-client/revoke-with-key" {
  capabilities = ["update"]
}

# whoever has the key of a certificate may revoke it
path "nodeagent/mercury/nodeagent/revoke-with-key" {
  capabilities = ["update"]
}

# how far the host is with its certificates, for changes of a CA
path "nodeagent/mercury/secrets/data/hosts/w1" {
  capabilities = ["create", "read", "update"]
}

# the token itself
path "auth/token/lookup-self" {
  capabilities = ["read"]
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}

path "auth/token/revoke-self" {
  capabilities = ["update"]
}

# `nodeagent pki check` on the host
path "sys/capabilities-self" {
  capabilities = ["update"]
}
