# Host cp1 of cluster mercury, made by `nodeagent pki bootstrap`.

path "nodeagent/mercury/k8s-client/sign/cp1.admin" {
  capabilities = ["update"]
  allowed_parameters = {
    "common_name" = ["kubernetes-admin"]
    "csr" = []
    "exclude_cn_from_sans" = [true]
    "format" = ["pem"]
  }
  required_parameters = ["common_name", "exclude_cn_from_sans", "format", "csr"]
}

path "nodeagent/mercury/etcd-server/sign/cp1.apiserver-etcd-client" {
  capabilities = ["update"]
  allowed_parameters = {
    "common_name" = ["kube-apiserver-etcd-client"]
    "csr" = []
    "exclude_cn_from_sans" = [true]
    "format" = ["pem"]
  }
  required_parameters = ["common_name", "exclude_cn_from_sans", "format", "csr"]
}

path "nodeagent/mercury/k8s-client/sign/cp1.apiserver-kubelet-client" {
  capabilities = ["update"]
  allowed_parameters = {
    "common_name" = ["kube-apiserver-kubelet-client"]
    "csr" = []
    "exclude_cn_from_sans" = [true]
    "format" = ["pem"]
  }
  required_parameters = ["common_name", "exclude_cn_from_sans", "format", "csr"]
}

path "nodeagent/mercury/etcd-peer/sign/cp1.etcd-peer" {
  capabilities = ["update"]
  allowed_parameters = {
    "alt_names" = ["cp1"]
    "common_name" = ["cp1"]
    "csr" = []
    "exclude_cn_from_sans" = [true]
    "format" = ["pem"]
    "ip_sans" = ["192.0.2.1"]
  }
  required_parameters = ["alt_names", "common_name", "exclude_cn_from_sans", "format", "ip_sans", "csr"]
}

path "nodeagent/mercury/etcd-server/sign/cp1.etcd-server" {
  capabilities = ["update"]
  allowed_parameters = {
    "alt_names" = ["cp1,localhost"]
    "common_name" = ["cp1"]
    "csr" = []
    "exclude_cn_from_sans" = [true]
    "format" = ["pem"]
    "ip_sans" = ["127.0.0.1,192.0.2.1,::1"]
  }
  required_parameters = ["alt_names", "common_name", "exclude_cn_from_sans", "format", "ip_sans", "csr"]
}

path "nodeagent/mercury/front-proxy/sign/cp1.front-proxy-client" {
  capabilities = ["update"]
  allowed_parameters = {
    "common_name" = ["front-proxy-client"]
    "csr" = []
    "exclude_cn_from_sans" = [true]
    "format" = ["pem"]
  }
  required_parameters = ["common_name", "exclude_cn_from_sans", "format", "csr"]
}

path "nodeagent/mercury/k8s-server/sign/cp1.kube-apiserver" {
  capabilities = ["update"]
  allowed_parameters = {
    "alt_names" = ["api.mercury.example.org,cp1,kubernetes,kubernetes.default,kubernetes.default.svc,kubernetes.default.svc.cluster.local,localhost"]
    "common_name" = ["kube-apiserver"]
    "csr" = []
    "exclude_cn_from_sans" = [true]
    "format" = ["pem"]
    "ip_sans" = ["10.96.0.1,127.0.0.1,192.0.2.1,::1"]
  }
  required_parameters = ["alt_names", "common_name", "exclude_cn_from_sans", "format", "ip_sans", "csr"]
}

path "nodeagent/mercury/k8s-client/sign/cp1.kube-controller-manager" {
  capabilities = ["update"]
  allowed_parameters = {
    "common_name" = ["system:kube-controller-manager"]
    "csr" = []
    "exclude_cn_from_sans" = [true]
    "format" = ["pem"]
  }
  required_parameters = ["common_name", "exclude_cn_from_sans", "format", "csr"]
}

path "nodeagent/mercury/k8s-server/sign/cp1.kube-controller-manager-server" {
  capabilities = ["update"]
  allowed_parameters = {
    "alt_names" = ["localhost"]
    "common_name" = ["kube-controller-manager"]
    "csr" = []
    "exclude_cn_from_sans" = [true]
    "format" = ["pem"]
    "ip_sans" = ["127.0.0.1,::1"]
  }
  required_parameters = ["alt_names", "common_name", "exclude_cn_from_sans", "format", "ip_sans", "csr"]
}

path "nodeagent/mercury/k8s-client/sign/cp1.kube-scheduler" {
  capabilities = ["update"]
  allowed_parameters = {
    "common_name" = ["system:kube-scheduler"]
    "csr" = []
    "exclude_cn_from_sans" = [true]
    "format" = ["pem"]
  }
  required_parameters = ["common_name", "exclude_cn_from_sans", "format", "csr"]
}

path "nodeagent/mercury/k8s-server/sign/cp1.kube-scheduler-server" {
  capabilities = ["update"]
  allowed_parameters = {
    "alt_names" = ["localhost"]
    "common_name" = ["kube-scheduler"]
    "csr" = []
    "exclude_cn_from_sans" = [true]
    "format" = ["pem"]
    "ip_sans" = ["127.0.0.1,::1"]
  }
  required_parameters = ["alt_names", "common_name", "exclude_cn_from_sans", "format", "ip_sans", "csr"]
}

path "nodeagent/mercury/nodeagent/sign/cp1.nodeagent" {
  capabilities = ["update"]
  allowed_parameters = {
    "common_name" = ["cp1"]
    "csr" = []
    "exclude_cn_from_sans" = [true]
    "format" = ["pem"]
  }
  required_parameters = ["common_name", "exclude_cn_from_sans", "format", "csr"]
}

path "nodeagent/mercury/etcd-server/sign/cp1.nodeagent-etcd-client" {
  capabilities = ["update"]
  allowed_parameters = {
    "common_name" = ["nodeagent-etcd-maintenance"]
    "csr" = []
    "exclude_cn_from_sans" = [true]
    "format" = ["pem"]
  }
  required_parameters = ["common_name", "exclude_cn_from_sans", "format", "csr"]
}

path "nodeagent/mercury/k8s-client/sign/cp1.ephemeral" {
  capabilities = ["update"]
  allowed_parameters = {
    "common_name" = ["nodeagent:cp1"]
    "csr" = []
    "exclude_cn_from_sans" = [true]
    "format" = ["pem"]
  }
  required_parameters = ["common_name", "exclude_cn_from_sans", "format", "csr"]
}

# whoever has the key of a certificate may revoke it
path "nodeagent/mercury/etcd-server/revoke-with-key" {
  capabilities = ["update"]
}

# whoever has the key of a certificate may revoke it
path "nodeagent/mercury/etcd-peer/revoke-with-key" {
  capabilities = ["update"]
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
path "nodeagent/mercury/front-proxy/revoke-with-key" {
  capabilities = ["update"]
}

# whoever has the key of a certificate may revoke it
path "nodeagent/mercury/nodeagent/revoke-with-key" {
  capabilities = ["update"]
}

# shared by all control planes; made once and never overwritten
path "nodeagent/mercury/secrets/data/encryption" {
  capabilities = ["create", "read"]
}

# shared by all control planes; made once and never overwritten
path "nodeagent/mercury/secrets/data/service-account" {
  capabilities = ["create", "read"]
}

# how far the host is with its certificates, for changes of a CA
path "nodeagent/mercury/secrets/data/hosts/cp1" {
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
