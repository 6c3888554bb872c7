# nodeagent itself: one static binary, the same for every fleet and host.
{
  lib,
  pkgs,
  buildGoModule,
  version ? "unknown",
  commit ? "unknown",
  # Of the commit, RFC 3339; and whether the sources are exactly it: "clean",
  # "modified" or "unknown".
  commitTime ? "",
  tree ? "unknown",
  # A folder of TOML files to have within the binary; nix/rescue.nix.
  fleet ? null,
}:
let
  # go.mod names the oldest Go. buildGoModule's own may be older.
  build = pkgs.buildGo126Module or buildGoModule;
  # What Go needs of the repository, so that an edit of the documentation or of
  # Nix files builds nothing anew. Tests read docs/ and the unit file.
  keep =
    path: type:
    let
      name = baseNameOf path;
    in
    !(
      lib.hasSuffix ".nix" name
      || builtins.elem name [
        ".cache"
        ".ci"
        ".git"
        "bin"
        "flake.lock"
        "result"
      ]
    );
in
build {
  pname = "nodeagent";
  inherit version;
  src = builtins.path {
    path = ./..;
    name = "nodeagent-source";
    filter = keep;
  };
  # `make vendor-hash` writes it, and `make test-nix` fails when it is stale.
  vendorHash = lib.fileContents ./vendor-hash;
  subPackages = [ "cmd/nodeagent" ];
  env.CGO_ENABLED = "0";
  ldflags = [
    "-s"
    "-w"
    "-X main.release=${version}"
    "-X main.commit=${commit}"
    "-X main.commitTime=${commitTime}"
    "-X main.tree=${tree}"
  ];
  tags = lib.optional (fleet != null) "embedfleet";
  preBuild = lib.optionalString (fleet != null) ''
    mkdir -p internal/embedfleet/fleet
    cp ${fleet}/*.toml internal/embedfleet/fleet/
  '';

  # Those that need neither root nor a network nor another program. They print
  # what they skip, and why; `make test` has them all.
  checkPhase = ''
    runHook preCheck
    export GOFLAGS=''${GOFLAGS//-trimpath/}
    go test -v ./hosts/... ./internal/calendar ./internal/plan ./internal/layout ./internal/kube ./internal/embedfleet ./nix/... \
      >tests 2>&1 || { cat tests; exit 1; }
    grep '^ok ' tests
    grep -B 1 '^ *--- SKIP' tests || true
    rm tests
    runHook postCheck
  '';

  # Manual pages and completions are made by programs for the build platform, which
  # run here wherever nodeagent itself is to run. Pages have the commit's date, if
  # any: stdenv's own would be of 1980.
  postInstall = ''
    (
      GOOS=$(go env GOHOSTOS)
      GOARCH=$(go env GOHOSTARCH)
      SOURCE_DATE_EPOCH=${lib.optionalString (commitTime != "") "$(date --date=${commitTime} +%s)"}
      export GOOS GOARCH SOURCE_DATE_EPOCH
      go run -tags docgen ./cmd/nodeagent -man man -version ${version}
      go build -o native ./cmd/nodeagent
    )
    for page in man/*; do
      install -D -m 0644 $page $out/share/man/man''${page##*.}/$(basename $page)
    done
    mkdir -p $out/share/bash-completion/completions $out/share/zsh/site-functions $out/share/fish/vendor_completions.d
    ./native completion bash >$out/share/bash-completion/completions/nodeagent
    ./native completion zsh >$out/share/zsh/site-functions/_nodeagent
    ./native completion fish >$out/share/fish/vendor_completions.d/nodeagent.fish

    install -D -m 0644 cmd/nodeagent/nodeagent.service $out/lib/systemd/system/nodeagent.service
    substituteInPlace $out/lib/systemd/system/nodeagent.service \
      --replace-fail /usr/local/bin/nodeagent $out/bin/nodeagent \
      --replace-fail /bin/kill ${pkgs.coreutils}/bin/kill
  '';

  meta = {
    description = "Makes a bare-metal Kubernetes host be as its fleet's TOML files say, and keeps it so";
    mainProgram = "nodeagent";
    platforms = lib.platforms.linux;
  };
}
