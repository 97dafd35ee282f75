# What is in the image, as CycloneDX 1.5: `$crates` as `cargo tree` lists them, `$packages` as `dpkg-query` does.

def lines: split("\n") | map(select(. != "")) | unique[];

# The worker's own crates are the program: one version, and nothing that a registry knows.
def crate:
  capture("^(?<name>[^ ]+) v(?<version>[^ |]+)(?<place>[^|]*)\\|(?<license>.*)$")
  | select(.place == "")
  | {type: "library", name, version, purl: "pkg:cargo/\(.name)@\(.version | @uri)",
     # What crates wrote before there were expressions.
     licenses: [{expression: (.license | gsub(" */ *"; " OR "))}]};

def package:
  split("|")
  | {type: "library", name: .[0], version: .[1],
     purl: "pkg:deb/debian/\(.[0])@\(.[1] | @uri)?arch=\(.[2])&distro=\($distro)"};

[$crates | lines | capture("^oz-worker-runtime-smol v(?<version>[^ ]+)")][0].version as $version
| {
    bomFormat: "CycloneDX", specVersion: "1.5", version: 1,
    metadata: {component: {
      type: "container", name: "oz-agent-worker", version: $version,
      licenses: [{expression: "MIT OR Apache-2.0"}]
    }},
    components: (
      [$crates | lines | crate]
      + [{type: "library", name: "rust-std", version: $rust, purl: "pkg:generic/rust-std@\($rust)",
          licenses: [{expression: "MIT OR Apache-2.0"}]}]
      + [$packages | lines | package]
    )
  }
