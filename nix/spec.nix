# What a fleet says of one host, as far as NixOS must know of it: cluster.toml and
# the host's file joined as nodeagent joins them. It is not checked here. A fleet
# that a derivation makes is not read, since that would build it at evaluation.
{ lib, cfg }:
let
  inherit (builtins) isAttrs isList;
  defaults = (builtins.fromJSON (builtins.readFile ./options.json)).defaults;

  join =
    a: b:
    a
    // builtins.mapAttrs (
      name: v:
      if !(a ? ${name}) then
        v
      else if isAttrs a.${name} && isAttrs v then
        join a.${name} v
      else if isList a.${name} && isList v then
        a.${name} ++ v
      else
        v
    ) b;
  said =
    v:
    if isAttrs v then
      builtins.mapAttrs (_: said) (lib.filterAttrs (_: x: x != null) v)
    else if isList v then
      map said v
    else
      v;

  read =
    name:
    let
      file = cfg.fleet + "/${name}.toml";
    in
    if cfg.fleet == null || lib.isDerivation cfg.fleet || !builtins.pathExists file then
      { }
    else
      builtins.fromTOML (builtins.readFile file);
  raw =
    if cfg.settings != null then
      join (said cfg.settings.shared) (said (cfg.settings.hosts.${cfg.host} or { }))
    else
      join (read "cluster") (read cfg.host);

  at = path: default: lib.attrByPath path default raw;
  roles = at [ "host" "roles" ] [ ];
  has = role: builtins.elem role roles;
  wireguard = at [ "network" "wireguard" ] null;

  # [kernel.sysctl] has dotted names, in quotes or as tables.
  flatten =
    prefix: set:
    builtins.foldl' (
      all: name:
      all
      // (
        if isAttrs set.${name} then
          flatten "${prefix}${name}." set.${name}
        else
          { "${prefix}${name}" = set.${name}; }
      )
    ) { } (builtins.attrNames set);
  byDefault =
    if !(at [ "kernel" "defaults" ] true) || roles == [ ] then
      {
        modules = [ ];
        sysctl = { };
      }
    else if has "worker" then
      defaults.worker
    else
      defaults.host;
  rules = builtins.attrValues (at [ "firewall" "allow" ] { });
  opened =
    protocol: builtins.concatMap (r: r.ports or [ ]) (builtins.filter (r: (r.protocol or "tcp") == protocol) rules);
in
{
  inherit at has roles;
  known = raw != { };

  # What the host has links of its own for. A value of false leaves NixOS' own.
  modules = lib.unique (
    byDefault.modules
    ++ at [ "kernel" "modules" ] [ ]
    ++ lib.optional (wireguard != null) "wireguard"
  );
  sysctl = lib.filterAttrs (_: v: v != false) (
    byDefault.sysctl // flatten "" (at [ "kernel" "sysctl" ] { })
  );

  links = builtins.attrNames (at [ "network" "link" ] { });
  wireguardLink = lib.optional (wireguard != null) (wireguard.interface or "wg0");
  hasFirewall = raw ? firewall;
  tcp = lib.unique (
    opened "tcp"
    ++ lib.optional (has "control-plane") (at [ "kubernetes" "api_port" ] defaults.ports.api)
    ++ lib.optionals (has "etcd") [
      (at [ "etcd" "client_port" ] defaults.ports.etcd_client)
      (at [ "etcd" "peer_port" ] defaults.ports.etcd_peer)
    ]
    ++ lib.optional (has "worker") 10250 # the kubelet's, which is Kubernetes' own
  );
  udp = lib.unique (
    opened "udp" ++ lib.optional (wireguard != null) (wireguard.port or defaults.ports.wireguard)
  );
  # The bridge that kubernetes.cni = "bridge" makes.
  podLinks = lib.optional (has "worker" && at [ "kubernetes" "cni" ] "bridge" == "bridge") "cni0";
}
