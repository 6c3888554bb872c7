# services.nodeagent: runs nodeagent on a NixOS host. docs/nixos.md is the guide.
{ nodeagent, mkNodeagent }:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib)
    mkEnableOption
    mkIf
    mkMerge
    mkOption
    types
    ;
  cfg = config.services.nodeagent;
  spec = import ./spec.nix { inherit lib cfg; };
  # Links, so that other programs change nothing in the unit.
  binaries = "/etc/nodeagent/programs/bin";
  cniBinaries = "/etc/nodeagent/cni/bin";
  joined =
    name: paths:
    pkgs.buildEnv {
      name = "nodeagent-${name}";
      inherit paths;
      pathsToLink = [ "/bin" ];
    };
  wrapper = mkNodeagent {
    inherit
      pkgs
      fleet
      binaries
      cniBinaries
      ;
    inherit (cfg) host package;
  };
  toml = import ./toml.nix { inherit lib; };
  # The files that `settings` say, as a folder like any other fleet's.
  written = pkgs.linkFarm "fleet" (
    [
      {
        name = "cluster.toml";
        path = pkgs.writeText "cluster.toml" (toml cfg.settings.shared);
      }
    ]
    ++ lib.mapAttrsToList (host: settings: {
      name = "${host}.toml";
      path = pkgs.writeText "${host}.toml" (toml settings);
    }) cfg.settings.hosts
  );
  fleet =
    if cfg.settings != null then
      written
    else if lib.isDerivation cfg.fleet then
      cfg.fleet
    else
      import ./fleet.nix {
        inherit lib;
        inherit (cfg) fleet;
      };
in
{
  imports = [
    (import ./conflicts.nix { inherit spec; })
    (import ./handover.nix { inherit spec; })
  ];

  options.services.nodeagent = {
    enable = mkEnableOption "nodeagent, which keeps this host as its fleet's files say";

    package = mkOption {
      type = types.package;
      default = nodeagent pkgs;
      description = "The nodeagent to run.";
    };

    fleet = mkOption {
      type = types.nullOr types.path;
      default = null;
      example = lib.literalExpression "./fleet";
      description = ''
        The folder with cluster.toml and a file <host>.toml for each host. It is
        copied into the Nix store, which everybody can read, and validated when the
        system is built. Either this or `settings`.
      '';
    };

    settings = mkOption {
      type = types.nullOr (import ./settings.nix { inherit lib; });
      default = null;
      example = lib.literalExpression ''
        {
          shared.cluster.name = "mercury";
          hosts.mercury.host.roles = [ "control-plane" "etcd" "worker" ];
        }
      '';
      description = "The fleet in Nix instead of TOML, with the same keys. Either this or `fleet`.";
    };

    host = mkOption {
      type = types.str;
      default = config.networking.hostName;
      description = "The name of this host in the fleet.";
    };

    programs = mkOption {
      type = types.listOf types.package;
      default = with pkgs; [
        etcd
        kubernetes
        containerd
        runc
        conntrack-tools
        ethtool
        iproute2
        iptables
        kmod
        nftables
        socat
        util-linux
      ];
      description = ''
        Where the components and the programs that they call are taken from, as long
        as the fleet does not name a folder itself (`kubernetes.binaries`).
      '';
    };

    cniPlugins = mkOption {
      type = types.listOf types.package;
      default = [ pkgs.cni-plugins ];
      description = "The CNI plugins, as long as the fleet names no folder (`kubernetes.cni_binaries`).";
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether NixOS' own firewall lets through what the spec opens, and what
        the components listen on. A packet has to pass both firewalls; nodeagent's
        goes on to say from where. It makes no sense where `networking.firewall` is
        off.
      '';
    };

    restartOnUpgrade = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether a switch to a configuration with another nodeagent restarts it. A new
        fleet and new programs are taken over by a reload in any case. Without this
        the new nodeagent is in force from the next boot, or from
        `systemctl restart nodeagent`.
      '';
    };
  };

  config = mkIf cfg.enable {
    environment.systemPackages = [ wrapper ];
    environment.etc = {
      "nodeagent/fleet".source = fleet;
      "nodeagent/programs".source = joined "programs" cfg.programs;
      "nodeagent/cni".source = joined "cni" cfg.cniPlugins;
    };

    # The same as cmd/nodeagent/nodeagent.service. It names the links below
    # /etc/nodeagent and no store path but nodeagent's own, so that another fleet
    # and other programs are a reload: the process stays, reads them, and decides
    # for each component. Nothing is stopped before the new system is there.
    systemd.services.nodeagent = {
      description = "nodeagent: keeps this host as its fleet's TOML files say";
      documentation = [
        "man:nodeagent(1)"
        "https://github.com/nodeagent/nodeagent"
      ];
      wantedBy = [ "multi-user.target" ];
      wants = [ "dbus.service" ];
      # The agent makes the network; it must not wait for it.
      after = [
        "systemd-modules-load.service"
        "systemd-sysctl.service"
        "local-fs.target"
        "dbus.service"
      ];
      before = [ "network-online.target" ];
      environment = {
        NODEAGENT_FLEET = "/etc/nodeagent/fleet";
        NODEAGENT_HOST = cfg.host;
        NODEAGENT_BINARIES = binaries;
        NODEAGENT_CNI_BINARIES = cniBinaries;
      };
      unitConfig.StartLimitIntervalSec = 0;
      restartIfChanged = cfg.restartOnUpgrade;
      stopIfChanged = false;
      reloadTriggers = map toString [
        fleet
        config.environment.etc."nodeagent/programs".source
        config.environment.etc."nodeagent/cni".source
      ];
      serviceConfig = {
        Type = "notify";
        ExecStart = "${cfg.package}/bin/nodeagent run";
        ExecReload = "${pkgs.coreutils}/bin/kill -HUP $MAINPID";
        TimeoutStartSec = "20min";
        Restart = "always";
        RestartSec = 5;
        WatchdogSec = "5min";
        # Components are units of their own: they stay up when the agent stops.
        KillMode = "process";
        RuntimeDirectory = "nodeagent";
        RuntimeDirectoryPreserve = "yes";
        StateDirectory = "nodeagent";
        StateDirectoryMode = "0700";
        UMask = "0077";
        OOMScoreAdjust = -900;
        LoadCredentialEncrypted = "nodeagent-ca";
      };
    };
  };
}
