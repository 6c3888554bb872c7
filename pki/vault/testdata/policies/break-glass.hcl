# Whoever may have `nodeagent kubeconfig --group system:masters` of cluster mercury, made by `nodeagent pki bootstrap`.

path "nodeagent/mercury/k8s-client/sign/break-glass" {
  capabilities = ["update"]
  allowed_parameters = {
    "common_name" = ["kubernetes-super-admin"]
    "csr" = []
    "exclude_cn_from_sans" = [true]
    "format" = ["pem"]
    "ttl" = []
  }
  required_parameters = ["common_name", "csr", "exclude_cn_from_sans", "ttl"]
}
