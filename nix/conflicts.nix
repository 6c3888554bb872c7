# What cannot go together is said when the system is evaluated, with what to do.
{ spec }:
{
  config,
  lib,
  ...
}:
let
  inherit (lib) mkIf;
  cfg = config.services.nodeagent;
  names = builtins.concatStringsSep ", ";
  both = a: b: builtins.filter (name: builtins.elem name b) a;
  net = config.networking;

  own = spec.links ++ spec.wireguardLink;
  static = both own (builtins.attrNames net.interfaces);
  networkd = both own (
    builtins.concatMap (
      n:
      let
        name = n.matchConfig.Name or [ ];
      in
      if builtins.isList name then name else [ name ]
    ) (builtins.attrValues config.systemd.network.networks)
  );
  tunnels = both spec.wireguardLink (
    builtins.attrNames net.wireguard.interfaces ++ builtins.attrNames net.wg-quick.interfaces
  );
  servers = spec.at [ "network" "dns" "servers" ] [ ];
  writesEtc =
    spec.at [ "network" "hosts_file" ] false || spec.at [ "network" "hosts" ] { } != { } || servers != [ ];
  other = lib.filterAttrs (
    name: value: toString (config.boot.kernel.sysctl.${name} or value) != toString value
  ) spec.sysctl;

  wanted = spec.at [ "kubernetes" "version" ] null;
  minor = version: lib.versions.majorMinor version;
  wrongKubernetes = builtins.filter (
    p: (p.pname or "") == "kubernetes" && wanted != null && minor p.version != minor wanted
  ) cfg.programs;

  rule = assertion: message: { inherit assertion message; };
in
{
  config = mkIf cfg.enable {
    assertions = [
      (rule (
        (cfg.fleet == null) != (cfg.settings == null)
      ) "services.nodeagent: set either fleet, a folder of TOML files, or settings, the same in Nix; ${
        if cfg.fleet == null then "neither" else "both"
      } is set.")
      (rule (cfg.settings == null || cfg.settings.hosts ? ${cfg.host})
        "services.nodeagent.settings.hosts has no ${cfg.host}: add it, or name the host with services.nodeagent.host; it has ${
          names (builtins.attrNames (if cfg.settings == null then { } else cfg.settings.hosts))
        }."
      )
      (rule (!(spec.at [ "network" "hostname" ] false) || net.hostName == cfg.host)
        "services.nodeagent: network.hostname = true gives this host the name ${cfg.host}, and networking.hostName is ${net.hostName}, in a file that nodeagent cannot write. Make them the same."
      )
      (rule (!(net.useDHCP && spec.links != [ ]))
        "services.nodeagent: the spec configures ${names spec.links}, and networking.useDHCP = true has NixOS configure every link. Set networking.useDHCP = false, and say networking.interfaces.<link>.useDHCP = true of those that are NixOS'."
      )
      (rule (static == [ ])
        "services.nodeagent: both the spec and networking.interfaces configure ${names static}. Take it out of one of them."
      )
      (rule (networkd == [ ])
        "services.nodeagent: both the spec and systemd.network.networks configure ${names networkd}. Take it out of one of them."
      )
      (rule (tunnels == [ ])
        "services.nodeagent: both the spec and networking.wireguard (or wg-quick) make ${names tunnels}. Take it out of NixOS' configuration."
      )
      (rule (!(net.firewall.enable && spec.hasFirewall && !cfg.openFirewall))
        "services.nodeagent: the spec has a firewall and networking.firewall is on, so that a packet has to pass both. Set networking.firewall.enable = false to leave it to nodeagent, or services.nodeagent.openFirewall = true to have NixOS' let through what the spec opens."
      )
      (rule (servers == [ ] || config.services.resolved.enable || !net.resolvconf.enable)
        "services.nodeagent: the spec names resolvers (network.dns.servers), and NixOS' resolvconf writes /etc/resolv.conf as well. Set networking.resolvconf.enable = false, or services.resolved.enable = true, which nodeagent tells its servers."
      )
      (rule (!writesEtc || !config.system.etc.overlay.enable || config.system.etc.overlay.mutable)
        "services.nodeagent: network.hosts_file, network.hosts and network.dns are written to /etc, which system.etc.overlay makes read-only. Set system.etc.overlay.mutable = true, or leave them out of the spec and use networking.hosts and networking.nameservers."
      )
      (rule (other == { })
        "services.nodeagent: boot.kernel.sysctl and the spec differ in ${
          names (
            lib.mapAttrsToList (
              name: value: "${name} (${toString config.boot.kernel.sysctl.${name}}, spec ${toString value})"
            ) other
          )
        }. NixOS would set one at each activation and nodeagent the other. Make them the same, or write false for it in the spec's kernel.sysctl to leave it to NixOS."
      )
      (rule
        (
          !(
            config.services.kubernetes.apiserver.enable
            || config.services.kubernetes.kubelet.enable
            || config.services.kubernetes.roles != [ ]
            || config.services.k3s.enable
          )
        )
        "services.nodeagent runs Kubernetes itself: take services.kubernetes and services.k3s out of this host's configuration; docs/nixos.md has each option beside nodeagent's."
      )
      (rule (!(spec.has "etcd" && config.services.etcd.enable))
        "services.nodeagent runs etcd on this host (host.roles): set services.etcd.enable = false. docs/nixos.md says how its data is taken over."
      )
      (rule (!(spec.has "worker" && config.virtualisation.containerd.enable))
        "services.nodeagent runs containerd on this host (host.roles has worker), with the same socket and state folder as virtualisation.containerd: set virtualisation.containerd.enable = false. To have another containerd put it into services.nodeagent.programs."
      )
    ];

    warnings =
      lib.optional (!spec.known && !lib.isDerivation (if cfg.fleet == null then { } else cfg.fleet))
        "services.nodeagent: the fleet has no file for host ${cfg.host}; nodeagent will say so and change nothing."
      ++ map (
        p:
        "services.nodeagent: the fleet wants Kubernetes ${wanted}, and services.nodeagent.programs has ${p.version}: take a package of that release."
      ) (lib.optionals (spec.at [ "kubernetes" "binaries" ] null == null) wrongKubernetes);
  };
}
