# What `nix flake check` builds.
{
  lib,
  pkgs,
  self,
  fleets,
  package,
}:
let
  # A run of Go over the sources, with the modules of the package.
  goCheck =
    name: tools: script:
    package.overrideAttrs (old: {
      name = "nodeagent-${name}";
      nativeBuildInputs = old.nativeBuildInputs ++ tools;
      buildPhase = ''
        runHook preBuild
        ${script}
        runHook postBuild
      '';
      doCheck = false;
      postInstall = "";
      installPhase = "touch $out";
    });
in
{
  inherit package;
  lint = goCheck "lint" [ pkgs.gofumpt ] ''
    bad=$(gofumpt -l agent cmd etcdops hosts internal netcfg nix pki)
    if [ -n "$bad" ]; then echo "not formatted: $bad"; exit 1; fi
    go vet ./cmd/... ./agent/... ./etcdops/... ./hosts/... ./internal/... ./netcfg/... ./nix/... ./pki/...
  '';
  options = goCheck "options" [ ] "go run ./nix/options";
  vm = import ./vmtest.nix { inherit pkgs self; };
}
// lib.mapAttrs' (name: fleet: {
  name = "fleet-${name}";
  value = pkgs.runCommand "fleet-${name}" { } ''
    ${package}/bin/nodeagent validate ${import ./fleet.nix { inherit lib fleet; }} | tee $out
  '';
}) fleets
