# Options for every key of a fleet's files, made of nix/options.json, which is
# generated from the reference of these keys. What an option does not take, the
# loader would not take either; the rest the build's `nodeagent validate` finds.
{ lib }:
let
  inherit (lib) mkOption types;
  reference = (builtins.fromJSON (builtins.readFile ./options.json)).keys;

  valueTypes = {
    string =
      node:
      if node ? words then
        types.enum node.words
      else if node ? pattern then
        types.strMatching node.pattern
      else
        types.str;
    integer = node: types.ints.between node.lowest node.highest;
    boolean = _: types.bool;
    scalar = _: types.oneOf [
      types.str
      types.int
      types.bool
      types.float
    ];
  };

  # `within` is the kind of file that the options are for: "cluster" or "host".
  belongs = within: node: node.file == "any" || node.file == within;
  options =
    within: keys:
    builtins.mapAttrs (_: option within) (lib.filterAttrs (_: belongs within) keys);

  typeOf =
    within: node:
    {
      value = valueTypes.${node.toml} node;
      table = types.submodule { options = options within node.keys; };
      # Of dotted names, as in kernel.sysctl, a part may be a set of its own.
      named = types.attrsOf (
        if node.dotted or false then
          types.oneOf [
            (typeOf within node.each)
            (types.attrsOf types.anything)
          ]
        else
          typeOf within node.each
      );
      list = types.listOf (typeOf within node.each);
      free = types.attrsOf types.anything;
    }
    .${node.form};

  # Nothing is said of a key by default: the loader fills in, the same for all.
  option =
    within: node:
    mkOption (
      {
        type = types.nullOr (typeOf within node);
        default = null;
        description = node.description or "See docs/spec.md.";
      }
      // lib.optionalAttrs (node ? example) { example = lib.literalExpression node.example; }
    );

  file = within: types.submodule { options = options within reference; };
in
types.submodule {
  options = {
    shared = mkOption {
      type = file "cluster";
      default = { };
      description = "What all hosts share: the fleet's cluster.toml.";
    };
    hosts = mkOption {
      type = types.attrsOf (file "host");
      default = { };
      description = "What differs, by the host's name: <host>.toml. All hosts of the fleet belong here, since each knows the others.";
    };
  };
}
