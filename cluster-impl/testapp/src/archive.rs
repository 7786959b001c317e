//! The image archive: this binary under all the names of `images.txt`, as `docker save` writes them.
//!
//! One layer, one configuration for each different command; the same binary gives the same bytes.
//! `ctr --namespace k8s.io images import` and `docker load` both read it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use anyhow::Context;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::command::APPLETS;

const IMAGES: &str = include_str!("../images.txt");
const BLOCK: usize = 512;

/// The images: name and default arguments, in order.
pub fn images() -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
    IMAGES.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next().expect("a line that is not empty has a word");
        (name, words.collect())
    })
}

/// Writes the archive.
pub fn write(binary: &Path, out: &Path) -> anyhow::Result<()> {
    let mut program = Vec::new();
    File::open(binary)
        .and_then(|mut file| file.read_to_end(&mut program))
        .with_context(|| format!("cannot read {}", binary.display()))?;
    let layer = layer(&program)?;
    let layer_id = digest(&layer);
    let mut tags: BTreeMap<Vec<&str>, Vec<&str>> = BTreeMap::new();
    for (name, args) in images() {
        tags.entry(args).or_default().push(name);
    }
    let file = File::create(out).with_context(|| format!("cannot write {}", out.display()))?;
    let mut archive = Tar { out: BufWriter::new(file) };
    let layer_name = format!("{layer_id}.tar");
    archive.file(&layer_name, 0o644, &layer)?;
    let mut manifest = Vec::new();
    for (args, names) in tags {
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "Entrypoint": ["/testapp"],
                "Cmd": args,
                "Env": ["PATH=/bin"],
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_id}")]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "testapp image"}],
        })
        .to_string();
        let config_name = format!("{}.json", digest(config.as_bytes()));
        archive.file(&config_name, 0o644, config.as_bytes())?;
        manifest.push(json!({"Config": config_name, "RepoTags": names, "Layers": [layer_name]}));
    }
    archive.file("manifest.json", 0o644, serde_json::to_string(&manifest)?.as_bytes())?;
    archive.end()?.flush().with_context(|| format!("cannot write {}", out.display()))
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The file system: the binary, its other names, users, and the folders that programs expect.
fn layer(program: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut layer = Tar { out: Vec::new() };
    for dir in ["bin/", "dev/", "etc/", "proc/", "sys/", "var/", "var/log/"] {
        layer.entry(dir, 0o755, Kind::Dir)?;
    }
    layer.entry("tmp/", 0o1777, Kind::Dir)?;
    layer.file("testapp", 0o755, program)?;
    for applet in APPLETS {
        layer.entry(&format!("bin/{applet}"), 0o777, Kind::Link("/testapp"))?;
    }
    layer.file(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    )?;
    layer.file("etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n")?;
    layer.end()
}

/// What an entry of an archive is.
enum Kind<'k> {
    /// A file of this size.
    File(usize),
    /// A link to this path.
    Link(&'k str),
    /// A folder.
    Dir,
}

/// A writer of ustar archives whose entries all belong to root and are of no time.
struct Tar<W> {
    out: W,
}

impl<W: Write> Tar<W> {
    fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> anyhow::Result<()> {
        self.entry(name, mode, Kind::File(content.len()))?;
        self.out.write_all(content)?;
        let rest = content.len().next_multiple_of(BLOCK) - content.len();
        Ok(self.out.write_all(&[0; BLOCK][..rest])?)
    }

    fn entry(&mut self, name: &str, mode: u32, kind: Kind<'_>) -> anyhow::Result<()> {
        let (flag, link, size) = match kind {
            Kind::File(size) => (b'0', "", size),
            Kind::Link(target) => (b'2', target, 0),
            Kind::Dir => (b'5', "", 0),
        };
        let mut header = [0_u8; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        anyhow::ensure!(name.len() < 100 && link.len() < 100, "{name} is too long a name for tar");
        put(0, name.as_bytes());
        put(100, format!("{mode:07o}\0{:07o}\0{:07o}\0{size:011o}\0{:011o}\0", 0, 0, 0).as_bytes());
        put(148, b"        ");
        put(156, &[flag]);
        put(157, link.as_bytes());
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        Ok(self.out.write_all(&header)?)
    }

    fn end(mut self) -> anyhow::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Unpacks with the tar of the system; nothing here reads what nothing here wrote.
    fn unpack(archive: &Path, into: &Path) {
        let status = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(into).status();
        assert!(status.expect("tar is part of every system").success());
    }

    #[test]
    fn the_archive_holds_every_image_by_its_digest() {
        let here = tempfile::tempdir().unwrap();
        let (program, out) = (here.path().join("program"), here.path().join("out.tar"));
        std::fs::write(&program, b"not really a program").unwrap();
        write(&program, &out).unwrap();
        let first = std::fs::read(&out).unwrap();
        write(&program, &out).unwrap();
        assert_eq!(first, std::fs::read(&out).unwrap(), "same binary, same bytes");
        unpack(&out, here.path());
        let manifest = std::fs::read(here.path().join("manifest.json")).unwrap();
        let manifest: Vec<serde_json::Value> = serde_json::from_slice(&manifest).unwrap();
        let mut names = Vec::new();
        for image in &manifest {
            let config_name = image["Config"].as_str().unwrap();
            let config = std::fs::read(here.path().join(config_name)).unwrap();
            assert_eq!(format!("{}.json", digest(&config)), config_name);
            let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
            let layer_name = image["Layers"][0].as_str().unwrap();
            let layer = std::fs::read(here.path().join(layer_name)).unwrap();
            assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", digest(&layer)));
            names.extend(image["RepoTags"].as_array().unwrap().iter().cloned());
        }
        assert_eq!(names.len(), images().count());
        assert!(names.contains(&"kubetm/app:v2".into()));
        let root = here.path().join("root");
        std::fs::create_dir(&root).unwrap();
        unpack(&here.path().join(manifest[0]["Layers"][0].as_str().unwrap()), &root);
        assert_eq!(std::fs::read(root.join("testapp")).unwrap(), b"not really a program");
        let link = std::fs::read_link(root.join("bin/sleep")).unwrap();
        assert_eq!(link, Path::new("/testapp"));
    }

    #[test]
    fn every_image_has_a_command_line_that_is_understood() {
        for (name, args) in images() {
            let words = std::iter::once("/testapp").chain(args).map(str::to_owned);
            let read = crate::command::Command::of(&words.collect::<Vec<_>>());
            assert!(read.is_ok(), "{name}");
        }
    }
}
