# nixpkgs.lib.nixosSystem with those options of NixOS that nodeagent's module, its
# examples and its tests set or read, with NixOS' types and defaults.
{ lib, pkgsFor }:
{
  modules,
  system ? null,
  specialArgs ? { },
}:
let
  inherit (lib) mkOption types;
  option =
    type: default:
    mkOption { inherit type default; };
  switch = option types.bool;
  strings = option (types.listOf types.str) [ ];
  ports = option (types.listOf types.port) [ ];

  unit = {
    options = {
      description = option types.str "";
      documentation = strings;
      wantedBy = strings;
      wants = strings;
      after = strings;
      before = strings;
      path = option (types.listOf types.package) [ ];
      environment = option (types.attrsOf (types.nullOr types.str)) { };
      unitConfig = option types.attrs { };
      serviceConfig = option types.attrs { };
      restartIfChanged = switch true;
      reloadIfChanged = switch false;
      stopIfChanged = switch true;
      reloadTriggers = option (types.listOf types.anything) [ ];
      restartTriggers = option (types.listOf types.anything) [ ];
    };
  };
  etcFile = {
    options = {
      source = option types.path "/dev/null";
      text = option (types.nullOr types.lines) null;
      mode = option types.str "symlink";
    };
  };

  nixos =
    { config, pkgs, ... }:
    {
      options = {
        assertions = option (types.listOf types.anything) [ ];
        warnings = strings;
        nixpkgs.hostPlatform = option types.anything (if system == null then "x86_64-linux" else system);
        system.stateVersion = option types.str "26.05";
        system.build = option types.attrs { };
        system.etc.overlay.enable = switch false;
        system.etc.overlay.mutable = switch true;
        boot.kernelModules = strings;
        boot.kernel.sysctl = option (types.attrsOf types.anything) { };
        boot.loader.systemd-boot.enable = switch false;
        fileSystems = option types.attrs { };
        environment.systemPackages = option (types.listOf types.package) [ ];
        environment.etc = option (types.attrsOf (types.submodule etcFile)) { };
        networking = {
          hostName = option types.str "nixos";
          useDHCP = switch true;
          useNetworkd = switch false;
          interfaces = option types.attrs { };
          networkmanager.enable = switch false;
          networkmanager.unmanaged = strings;
          dhcpcd.denyInterfaces = strings;
          resolvconf.enable = switch true;
          firewall = {
            enable = switch true;
            allowedTCPPorts = ports;
            allowedUDPPorts = ports;
            trustedInterfaces = strings;
            checkReversePath = option (types.oneOf [ types.bool types.str ]) true;
          };
          wireguard.interfaces = option types.attrs { };
          wg-quick.interfaces = option types.attrs { };
        };
        systemd.network.enable = switch config.networking.useNetworkd;
        systemd.network.config.networkConfig = option types.attrs { };
        systemd.network.networks = option types.attrs { };
        systemd.services = option (types.attrsOf (types.submodule unit)) { };
        services = {
          openssh.enable = switch false;
          openssh.ports = option (types.listOf types.port) [ 22 ];
          resolved.enable = switch false;
          etcd.enable = switch false;
          kubernetes.roles = strings;
          kubernetes.apiserver.enable = switch false;
          kubernetes.kubelet.enable = switch false;
          k3s.enable = switch false;
        };
        virtualisation.containerd.enable = switch false;
        virtualisation.memorySize = option types.int 1024;
      };
      config = {
        # As NixOS says them: these stand for values that others set.
        boot.kernel.sysctl."fs.inotify.max_user_instances" = lib.mkDefault 524288;
        system.build.toplevel =
          let
            failed = builtins.filter (a: !a.assertion) config.assertions;
            unitText = builtins.toJSON config.systemd.services;
          in
          if failed != [ ] then
            throw "\nFailed assertions:\n${lib.concatMapStringsSep "\n" (a: "- ${a.message}") failed}"
          else
            pkgs.runCommand "nixos-system-${config.networking.hostName}"
              {
                inherit unitText;
                etc = map (e: e.source) (builtins.attrValues config.environment.etc);
                path = config.environment.systemPackages;
              }
              ''
                mkdir $out
                printf '%s' "$unitText" >$out/units.json
                echo $etc >$out/etc
                echo $path >$out/path
              '';
      };
    };
in
lib.evalModules {
  modules = [ nixos ] ++ modules;
  specialArgs = {
    pkgs = pkgsFor (if system == null then "x86_64-linux" else system);
  } // specialArgs;
}
