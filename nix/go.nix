# The Go that go.mod asks for, of the nixpkgs given.
pkgs: pkgs.go_1_26 or pkgs.go
