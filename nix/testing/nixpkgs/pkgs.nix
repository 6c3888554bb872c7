# The packages and builders that nodeagent's Nix files name. Builders use the
# machine's own shell and Go, so that they must be allowed to see it: the sandbox
# is off and evaluation is impure.
{
  lib,
  system,
  # What packages are built for; system builds them.
  host ? system,
}:
let
  # Where the machine's programs, and Go's caches, are.
  machine = name: builtins.getEnv "NODEAGENT_NIX_${name}";
  derive =
    args:
    derivation (
      {
        inherit system;
        builder = "/bin/sh";
        PATH = machine "PATH";
        HOME = "/tmp";
      }
      // args
    );
  with' =
    passthru: meta: drv:
    drv // passthru // { inherit meta passthru; };

  # A package that is a name, a version and an empty program.
  empty =
    name: version:
    with' {
      pname = name;
      inherit version;
    } { } (derive {
      name = "${name}-${version}";
      args = [
        "-c"
        "mkdir -p $out/bin && printf '#!/bin/sh\\n' >$out/bin/${name} && chmod +x $out/bin/${name}"
      ];
    });

  runCommand =
    name: attrs: script:
    with' (attrs.passthru or { }) (attrs.meta or { }) (derive (
      removeAttrs attrs [ "passthru" "meta" ]
      // {
        inherit name script;
        passAsFile = [ "script" ];
        args = [
          "-euc"
          ". \"$scriptPath\""
        ];
      }
    ));

  buildGoModule =
    args:
    with' (args.passthru or { } // {
      overrideAttrs = f: buildGoModule (args // f (args // { nativeBuildInputs = args.nativeBuildInputs or [ ]; }));
      inherit (args) version vendorHash;
    }) (args.meta or { }) (derive {
      name = args.name or "${args.pname}-${args.version}";
      inherit (args) src;
      GOOS = "linux";
      GOARCH = if host == "aarch64-linux" then "arm64" else "amd64";
      CGO_ENABLED = args.env.CGO_ENABLED or "0";
      GOMODCACHE = machine "GOMODCACHE";
      GOCACHE = machine "GOCACHE";
      GOFLAGS = "-trimpath -buildvcs=false";
      GOPROXY = "off";
      args = [
        "-euc"
        ''
          cp -r $src source && chmod -R u+w source && cd source
          ${args.preBuild or ""}
          mkdir -p $out/bin
          go build ${lib.optionalString (args.tags or [ ] != [ ]) "-tags ${builtins.concatStringsSep "," args.tags}"} \
            -ldflags '${builtins.concatStringsSep " " args.ldflags}' -o $out/bin/ ${lib.concatMapStringsSep " " (p: "./${p}") args.subPackages}
          substituteInPlace() {
            file=$1; shift
            while [ $# -gt 0 ]; do
              grep -q -F -e "$2" "$file" || { echo "$file has no $2"; exit 1; }
              sed -i "s,$2,$3,g" "$file"
              shift 3
            done
          }
          ${args.postInstall or ""}
        ''
      ];
    });

  makeOverridable = f: args: f args // { override = more: makeOverridable f (args // more); };

  pkgs = {
    inherit lib runCommand buildGoModule;
    buildPackages = if host == system then pkgs else import ./pkgs.nix { inherit lib system; };
    stdenv = {
      hostPlatform = { system = host; };
      buildPlatform = { inherit system; };
    };
    runtimeShell = "/bin/sh";
    coreutils = "/usr";
    callPackage =
      file: args:
      let
        f = import file;
      in
      makeOverridable f (builtins.intersectAttrs (builtins.functionArgs f) (pkgs // { inherit pkgs; }) // args);
    writeText =
      name: text:
      derive {
        inherit name text;
        passAsFile = [ "text" ];
        args = [
          "-c"
          "cp $textPath $out"
        ];
      };
    buildEnv =
      {
        name,
        paths,
        pathsToLink ? [ "/" ],
      }:
      derive {
        inherit name;
        args = [
          "-euc"
          "mkdir -p $out/bin; for p in ${builtins.concatStringsSep " " (map toString paths)}; do for f in $p/bin/*; do ln -sf $f $out/bin/; done; done"
        ];
      };
    linkFarm =
      name: entries:
      derive {
        inherit name;
        args = [
          "-euc"
          "mkdir -p $out; ${lib.concatMapStrings (e: "ln -s ${e.path} $out/${e.name}; ") entries}"
        ];
      };
    mkShell = args: derive {
      name = "shell";
      args = [
        "-c"
        "echo ${builtins.concatStringsSep " " (map toString args.packages)} >$out"
      ];
    };
    testers.runNixOSTest =
      test:
      runCommand "vm-test-run-${test.name}" {
        configurations = lib.mapAttrsToList (
          name: module:
          (lib.nixosSystem { modules = [ module { nixpkgs.hostPlatform = system; networking.hostName = lib.mkDefault name; } ]; }).config.system.build.toplevel
        ) test.nodes;
        inherit (test) testScript;
      } "echo a stand-in runs no virtual machine; exit 1";
  }
  // builtins.mapAttrs empty {
    go = "1.26.0";
    gofumpt = "0.9";
    gnumake = "4.4";
    nixfmt = "1.0";
    etcd = "3.6.5";
    kubernetes = "1.36.3";
    containerd = "2.2.0";
    runc = "1.3.0";
    cni-plugins = "1.8.0";
    util-linux = "2.41";
    nftables = "1.1";
    iptables = "1.8";
    iproute2 = "6.16";
    conntrack-tools = "1.4";
    ethtool = "6.15";
    socat = "1.8";
    kmod = "34";
    wireguard-tools = "1.0";
  };
in
pkgs
