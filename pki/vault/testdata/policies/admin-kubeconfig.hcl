# Whoever may have `nodeagent kubeconfig --group nodeagent:admins` of cluster mercury, made by `nodeagent pki bootstrap`.

path "nodeagent/mercury/k8s-client/sign/admin-kubeconfig" {
  capabilities = ["update"]
  allowed_parameters = {
    "common_name" = []
    "csr" = []
    "exclude_cn_from_sans" = [true]
    "format" = ["pem"]
    "ttl" = []
  }
  required_parameters = ["common_name", "csr", "exclude_cn_from_sans", "ttl"]
}
