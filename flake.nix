# What Nix builds of nodeagent; docs/nixos.md says how to use it.
{
  description = "Makes a bare-metal Kubernetes host be as its fleet's TOML files say, and keeps it so";

  # There is no flake.lock: the first `nix flake lock`, or the flake that has this
  # one as an input, pins nixpkgs. It must have Go 1.26.
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forAll = f: lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});

      # The release is the date and the commit of what is built, which is all that
      # Nix knows of it.
      commit = self.shortRev or self.dirtyShortRev or "unknown";
      version = "0-unstable-${builtins.substring 0 8 (self.lastModifiedDate or "19700101")}";

      tree =
        if self ? shortRev then
          "clean"
        else if self ? dirtyShortRev then
          "modified"
        else
          "unknown";
      part = from: count: builtins.substring from count self.lastModifiedDate;
      commitTime =
        if tree == "unknown" then
          ""
        else
          "${part 0 4}-${part 4 2}-${part 6 2}T${part 8 2}:${part 10 2}:${part 12 2}Z";

      nodeagent =
        pkgs:
        pkgs.callPackage ./nix/package.nix {
          inherit
            version
            commit
            commitTime
            tree
            ;
        };
      # Adds what a caller need not say.
      withPackage =
        args:
        args
        // {
          package = args.package or (nodeagent args.pkgs);
          validator = args.validator or (nodeagent args.pkgs.buildPackages);
        };
      mkNodeagent = args: import ./nix/mknodeagent.nix (withPackage args);
      mkRescue = args: import ./nix/rescue.nix (withPackage args);

      fleets = lib.genAttrs (builtins.attrNames (builtins.readDir ./hosts/fleets)) (
        name: ./hosts/fleets + "/${name}"
      );
      hosts = import ./nix/hosts.nix { inherit lib fleets; };

      example =
        module:
        lib.nixosSystem {
          modules = [
            self.nixosModules.default
            module
          ];
        };
    in
    {
      lib = {
        inherit mkNodeagent mkRescue;
      };

      overlays.default = final: _: {
        nodeagent = nodeagent final;
      };

      nixosModules = {
        default = self.nixosModules.nodeagent;
        nodeagent = import ./nix/module.nix { inherit nodeagent mkNodeagent; };
      };

      nixosConfigurations = {
        example-mercury = example ./nix/examples/mercury.nix;
        example-soarin = example ./nix/examples/soarin.nix;
      };

      packages = forAll (
        pkgs:
        {
          default = self.packages.${pkgs.stdenv.hostPlatform.system}.nodeagent;
          nodeagent = nodeagent pkgs;
        }
        // lib.mapAttrs' (host: fleet: {
          name = "host-${host}";
          value = mkNodeagent { inherit pkgs fleet host; };
        }) hosts
      );

      apps = forAll (pkgs: {
        default = {
          type = "app";
          program = "${nodeagent pkgs}/bin/nodeagent";
          meta.description = "nodeagent's command line";
        };
      });

      devShells = forAll (pkgs: {
        default = pkgs.mkShell {
          packages = [
            (import ./nix/go.nix pkgs)
            pkgs.gnumake
            pkgs.gofumpt
            pkgs.nftables
            pkgs.wireguard-tools
          ];
        };
      });

      formatter = forAll (pkgs: pkgs.nixfmt-rfc-style or pkgs.nixfmt);

      checks = forAll (
        pkgs:
        import ./nix/checks.nix {
          inherit
            lib
            pkgs
            fleets
            self
            ;
          package = nodeagent pkgs;
        }
      );
    };
}
