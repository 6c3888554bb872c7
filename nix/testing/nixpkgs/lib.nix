# The functions of nixpkgs' lib that nodeagent's Nix files call.
let
  inherit (builtins)
    attrNames
    concatMap
    concatStringsSep
    filter
    head
    isAttrs
    listToAttrs
    map
    readFile
    stringLength
    substring
    ;
  nameValuePair = name: value: { inherit name value; };
  self = {
    inherit nameValuePair;
    inherit (builtins) concatStringsSep elem isAttrs;
    genAttrs = names: f: listToAttrs (map (n: nameValuePair n (f n)) names);
    mapAttrs' = f: set: listToAttrs (map (n: f n set.${n}) (attrNames set));
    mapAttrsToList = f: set: map (n: f n set.${n}) (attrNames set);
    filterAttrs =
      keep: set: listToAttrs (map (n: nameValuePair n set.${n}) (filter (n: keep n set.${n}) (attrNames set)));
    concatMapStringsSep = sep: f: list: concatStringsSep sep (map f list);
    concatMapStrings = f: list: concatStringsSep "" (map f list);
    optional = yes: value: if yes then [ value ] else [ ];
    optionals = yes: list: if yes then list else [ ];
    optionalString = yes: text: if yes then text else "";
    optionalAttrs = yes: set: if yes then set else { };
    hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
    hasSuffix =
      suffix: text:
      stringLength text >= stringLength suffix
      && substring (stringLength text - stringLength suffix) (-1) text == suffix;
    removeSuffix =
      suffix: text:
      if self.hasSuffix suffix text then substring 0 (stringLength text - stringLength suffix) text else text;
    fileContents = file: self.removeSuffix "\n" (readFile file);
    isDerivation = value: isAttrs value && value.type or null == "derivation";
    unique = list: builtins.foldl' (all: x: if builtins.elem x all then all else all ++ [ x ]) [ ] list;
    attrByPath =
      path: default: set:
      if path == [ ] then
        set
      else if isAttrs set && set ? ${head path} then
        self.attrByPath (builtins.tail path) default set.${head path}
      else
        default;
    literalExpression = text: { _type = "literalExpression"; inherit text; };
    versions.majorMinor =
      version: concatStringsSep "." (map (i: builtins.elemAt (builtins.splitVersion version) i) [ 0 1 ]);
    platforms.linux = [
      "x86_64-linux"
      "aarch64-linux"
    ];

    types = import ./types.nix self;
    inherit (import ./modules.nix self)
      discharge
      evalModules
      mkOption
      mkEnableOption
      mkIf
      mkMerge
      mkOverride
      mkDefault
      mkForce
      ;
  };
in
self
