//! Volumes on the disk of a real node.
//!
//! Files change all at once, as upstream's: they lie in a folder of their own, named after the time;
//! `..data` leads to it, is replaced by renaming, and every name in the volume leads through it.
//! Secrets, tokens and the pod's own fields are never on a disk: their volumes are in memory.
//! A part of a volume is looked up when a container is made, and must lie inside the volume then.
//! Limit: between that look and the mount somebody who may write to the volume could swap it for a link;
//! upstream closes that gap by mounting an open folder, which CRI's paths do not allow.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::cri_files::Places;
use crate::runtime::{
    FilesOf, Mount, MountSource, PodId, PodVolume, RuntimeError, VolumeContent, VolumeFile,
};

type Files = BTreeMap<String, VolumeFile>;

/// Leads to the folder with the files of now.
const DATA: &str = "..data";
const DATA_DRAFT: &str = "..data_tmp";

fn folder_of(files: FilesOf) -> &'static str {
    match files {
        FilesOf::ConfigMap => "kubernetes.io~configmap",
        FilesOf::DownwardApi => "kubernetes.io~downward-api",
        FilesOf::Projected => "kubernetes.io~projected",
        FilesOf::Secret => "kubernetes.io~secret",
    }
}

fn failed(what: &str, path: &Path, error: impl std::fmt::Display) -> RuntimeError {
    RuntimeError::Failed(format!("cannot {what} {}: {error}", path.display()))
}

impl Places {
    fn volume_dir(&self, uid: &str, folder: &str, volume: &str) -> PathBuf {
        self.root_dir.join("pods").join(uid).join("volumes").join(folder).join(volume)
    }

    fn empty_dir(&self, uid: &str, volume: &str) -> PathBuf {
        self.volume_dir(uid, "kubernetes.io~empty-dir", volume)
    }

    /// Puts a volume in place; `stamp` names a folder that was never there before.
    pub(super) fn set_up_volume(
        &self,
        pod: &PodId,
        volume: &PodVolume,
        stamp: &str,
    ) -> Result<(), RuntimeError> {
        match &volume.content {
            VolumeContent::Host { path, kind } => host_path(Path::new(path), kind),
            VolumeContent::Empty { memory_max } => {
                let dir = self.empty_dir(&pod.uid, &volume.name);
                let is_new = !dir.exists();
                make_dir(&dir)?;
                if let Some(bytes) = memory_max {
                    put_in_memory(&dir, *bytes)?;
                }
                // Any user of the pod may write, as in upstream's.
                let mode = fs::metadata(&dir).map(|found| found.mode() & 0o7777);
                let mode = mode.map_err(|error| failed("look at", &dir, error))?;
                if mode & 0o777 != 0o777 {
                    set_mode(&dir, mode | 0o777).map_err(|error| failed("open", &dir, error))?;
                }
                if is_new {
                    let given = give(&dir, volume.group, 0o660);
                    given.map_err(|error| failed("give away", &dir, error))?;
                }
                Ok(())
            }
            VolumeContent::Files { of, files } => {
                let dir = self.volume_dir(&pod.uid, folder_of(*of), &volume.name);
                make_dir(&dir)?;
                if *of != FilesOf::ConfigMap {
                    put_in_memory(&dir, 0)?;
                }
                let written = write(&dir, files, volume.group, stamp);
                written.map_err(|error| failed("write", &dir, error))
            }
        }
    }

    /// The path of the node that a mount shows.
    pub(super) fn shown(
        &self,
        pod: &PodId,
        container: &str,
        mount: &Mount,
    ) -> Result<PathBuf, RuntimeError> {
        let whole = match &mount.source {
            MountSource::EmptyDir => self.empty_dir(&pod.uid, &mount.volume),
            MountSource::Files(of) => self.volume_dir(&pod.uid, folder_of(*of), &mount.volume),
            MountSource::HostPath(path) => PathBuf::from(path),
        };
        if mount.sub_path.is_empty() {
            return Ok(whole);
        }
        part(&whole, &mount.sub_path).map_err(|error| {
            tracing::warn!(volume = mount.volume, part = mount.sub_path, %error, "no such part");
            RuntimeError::Unfit(format!(
                "failed to prepare subPath for volumeMount {:?} of container {container:?}",
                mount.volume
            ))
        })
    }

    /// Removes a pod's volumes, and all else that is kept for it below the kubelet's folder.
    pub(super) fn remove_pod_dir(&self, uid: &str) {
        let dir = self.root_dir.join("pods").join(uid);
        for volume in entries(&dir.join("volumes")).iter().flat_map(|folder| entries(folder)) {
            if is_mount(&volume)
                && let Err(error) = umount2(&volume, MntFlags::MNT_DETACH)
            {
                tracing::warn!(volume = %volume.display(), %error, "cannot be unmounted");
            }
        }
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(dir = %dir.display(), %error, "cannot be removed");
            }
            _ => {}
        }
    }

    /// Removes the folders of all pods but these.
    pub(super) fn remove_other_pod_dirs(&self, uids: &BTreeSet<String>) {
        for dir in entries(&self.root_dir.join("pods")) {
            let uid = dir.file_name().map(|name| name.to_string_lossy().into_owned());
            if let Some(uid) = uid.filter(|uid| !uids.contains(uid)) {
                tracing::info!(uid, "removing what is left of a pod");
                self.remove_pod_dir(&uid);
            }
        }
    }
}

/// What is in a folder; nothing if there is none.
fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn make_dir(dir: &Path) -> Result<(), RuntimeError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o750).create(dir);
    made.map_err(|error| failed("make", dir, error))
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn is_mount(dir: &Path) -> bool {
    let device = |path: &Path| fs::symlink_metadata(path).map(|found| found.dev()).ok();
    dir.parent().is_some_and(|parent| device(dir) != device(parent))
}

/// Lays a file system in memory over a folder, unless there is one; of at most so many bytes if not 0.
fn put_in_memory(dir: &Path, bytes: u64) -> Result<(), RuntimeError> {
    if is_mount(dir) {
        return Ok(());
    }
    let options = match bytes {
        0 => "mode=0755".to_owned(),
        bytes => format!("mode=0777,size={bytes}"),
    };
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let laid = mount(Some("tmpfs"), dir, Some("tmpfs"), flags, Some(options.as_str()));
    laid.map_err(|error| failed("mount memory on", dir, error))
}

/// Gives a file or folder, and all below it, to a group, which gets these rights.
fn give(path: &Path, group: Option<i64>, rights: u32) -> io::Result<()> {
    let Some(group) = group.and_then(|group| u32::try_from(group).ok()) else { return Ok(()) };
    let found = fs::symlink_metadata(path)?;
    if found.is_symlink() {
        return Ok(());
    }
    chown(path, None, Some(group))?;
    let mode = found.mode() & 0o7777;
    if found.is_dir() {
        set_mode(path, mode | rights | 0o2110)?;
        for inner in entries(path) {
            give(&inner, i64::from(group).into(), rights)?;
        }
        return Ok(());
    }
    set_mode(path, mode | rights)
}

/// Who else may read files that the kubelet writes.
const GROUP_READS: u32 = 0o440;

/// Makes a volume hold exactly these files.
fn write(dir: &Path, files: &Files, group: Option<i64>, stamp: &str) -> io::Result<()> {
    let data = dir.join(DATA);
    if !holds(&data, files, group) {
        let fresh = dir.join(format!("..{stamp}"));
        fs::create_dir(&fresh)?;
        set_mode(&fresh, 0o755)?;
        for (path, file) in files {
            let path = fresh.join(path);
            if let Some(parent) = path.parent() {
                fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
            }
            fs::write(&path, &file.content)?;
            set_mode(&path, file.mode)?;
            if let Some(user) = file.user.and_then(|user| u32::try_from(user).ok()) {
                chown(&path, Some(user), None)?;
            }
        }
        give(&fresh, group, GROUP_READS)?;
        let draft = dir.join(DATA_DRAFT);
        remove(&draft)?;
        symlink(format!("..{stamp}"), &draft)?;
        fs::rename(&draft, &data)?;
    }
    let names: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &names {
        let (link, target) = (dir.join(name), Path::new(DATA).join(name));
        if fs::read_link(&link).ok().as_ref() != Some(&target) {
            remove(&link)?;
            symlink(&target, &link)?;
        }
    }
    let current = fs::read_link(&data)?;
    for entry in entries(dir) {
        let name = entry.file_name().unwrap_or_default();
        let is_kept = name == DATA
            || name == current.as_os_str()
            || name.to_str().is_some_and(|name| names.contains(name));
        if !is_kept {
            remove(&entry)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Whether a folder holds exactly these files already.
fn holds(data: &Path, files: &Files, group: Option<i64>) -> bool {
    let mut found = BTreeMap::new();
    if read_all(data, "", &mut found).is_err() || found.len() != files.len() {
        return false;
    }
    let extra = if group.is_some() { GROUP_READS } else { 0 };
    files.iter().all(|(path, file)| {
        let known = found.get(path);
        known.is_some_and(|(mode, content)| *mode == file.mode | extra && *content == file.content)
    })
}

fn read_all(
    dir: &Path,
    prefix: &str,
    found: &mut BTreeMap<String, (u32, Vec<u8>)>,
) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            read_all(&entry.path(), &format!("{path}/"), found)?;
        } else {
            found.insert(path, (metadata.mode() & 0o777, fs::read(entry.path())?));
        }
    }
    Ok(())
}

/// A part of a volume, made as a folder if it is not there; an error if it lies outside.
fn part(whole: &Path, part: &str) -> io::Result<PathBuf> {
    let outside = || io::Error::other("it lies outside of the volume");
    let whole = fs::canonicalize(whole)?;
    let mut at = whole.clone();
    for name in part.split('/').filter(|name| !name.is_empty() && *name != ".") {
        let next = at.join(name);
        let mode = fs::metadata(&at)?.mode() & 0o777;
        match fs::DirBuilder::new().mode(mode).create(&next) {
            Ok(()) => set_mode(&next, mode)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        at = fs::canonicalize(&next)?;
        if !at.starts_with(&whole) {
            return Err(outside());
        }
    }
    Ok(at)
}

/// Holds a hostPath to its type, and makes what the type says is to be made.
fn host_path(path: &Path, kind: &str) -> Result<(), RuntimeError> {
    let wrong = |what: &str| {
        let path = path.display();
        Err(RuntimeError::Failed(format!("hostPath type check failed: {path} is not {what}")))
    };
    let found = fs::metadata(path).ok().map(|found| found.file_type());
    let is = |test: fn(&fs::FileType) -> bool| found.as_ref().is_some_and(test);
    match kind {
        // Docker made what was missing, and upstream kept that for paths without a type.
        "" | "DirectoryOrCreate" if found.is_none() => {
            let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(path);
            made.map_err(|error| failed("make", path, error))
        }
        "FileOrCreate" if found.is_none() => {
            fs::write(path, "").map_err(|error| failed("make", path, error))
        }
        "" => Ok(()),
        "Directory" | "DirectoryOrCreate" if !is(fs::FileType::is_dir) => wrong("a directory"),
        "File" | "FileOrCreate" if !is(fs::FileType::is_file) => wrong("a file"),
        "Socket" if !is(FileTypeExt::is_socket) => wrong("a socket file"),
        "CharDevice" if !is(FileTypeExt::is_char_device) => wrong("a character device"),
        "BlockDevice" if !is(FileTypeExt::is_block_device) => wrong("a block device"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(all: &[(&str, &str, u32)]) -> Files {
        let one = |(path, content, mode): &(&str, &str, u32)| {
            let content = content.as_bytes().to_vec();
            ((*path).to_owned(), VolumeFile { content, mode: *mode, user: None })
        };
        all.iter().map(one).collect()
    }

    fn told(dir: &Path) -> String {
        let mut found = BTreeMap::new();
        read_all(&dir.join(DATA), "", &mut found).unwrap();
        let one = |(path, (mode, content)): (&String, &(u32, Vec<u8>))| {
            let seen = fs::read(dir.join(path)).unwrap();
            assert_eq!(&seen, content, "the visible {path} leads to the same");
            format!("{path} {mode:o} {}", String::from_utf8_lossy(content))
        };
        found.iter().map(one).collect::<Vec<_>>().join("; ")
    }

    fn names(dir: &Path) -> Vec<String> {
        let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        let mut names: Vec<_> = entries(dir).iter().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn files_change_all_at_once_and_only_if_they_differ() {
        let here = tempfile::tempdir().expect("a folder for the test");
        let dir = here.path();
        let first = files(&[("colour", "red", 0o644), ("deep/shape", "round", 0o400)]);
        write(dir, &first, None, "one").unwrap();
        assert_eq!(told(dir), "colour 644 red; deep/shape 400 round");
        assert_eq!(names(dir), ["..data", "..one", "colour", "deep"]);
        let open = fs::File::open(dir.join("colour")).unwrap();
        write(dir, &first, None, "two").unwrap();
        assert_eq!(names(dir), ["..data", "..one", "colour", "deep"], "nothing is to be done");
        write(dir, &files(&[("colour", "blue", 0o644)]), None, "three").unwrap();
        assert_eq!(told(dir), "colour 644 blue");
        assert_eq!(names(dir), ["..data", "..three", "colour"]);
        // Who has the old file open still reads it whole.
        assert_eq!(io::read_to_string(open).unwrap(), "red");
        write(dir, &files(&[("colour", "blue", 0o600)]), None, "four").unwrap();
        assert_eq!(told(dir), "colour 600 blue");
    }

    #[test]
    fn what_a_dead_kubelet_left_half_done_is_finished() {
        let here = tempfile::tempdir().expect("a folder for the test");
        let dir = here.path();
        let wanted = files(&[("a", "1", 0o644)]);
        write(dir, &wanted, None, "one").unwrap();
        fs::remove_file(dir.join("a")).unwrap();
        fs::create_dir(dir.join("..half")).unwrap();
        symlink("..half", dir.join(DATA_DRAFT)).unwrap();
        write(dir, &wanted, None, "two").unwrap();
        assert_eq!(told(dir), "a 644 1");
        assert_eq!(names(dir), ["..data", "..one", "a"]);
    }

    #[test]
    fn a_part_of_a_volume_never_lies_outside() {
        let here = tempfile::tempdir().expect("a folder for the test");
        let (volume, outside) = (here.path().join("volume"), here.path().join("outside"));
        fs::create_dir(&volume).unwrap();
        fs::create_dir(&outside).unwrap();
        symlink(&outside, volume.join("link")).unwrap();
        symlink("real", volume.join("inner")).unwrap();
        fs::create_dir(volume.join("real")).unwrap();
        fs::write(volume.join("file"), "x").unwrap();
        let real = fs::canonicalize(&volume).unwrap();
        assert_eq!(part(&volume, "made/deep").unwrap(), real.join("made/deep"));
        assert_eq!(part(&volume, "file").unwrap(), real.join("file"));
        assert_eq!(part(&volume, "inner").unwrap(), real.join("real"));
        assert!(part(&volume, "link").is_err());
        assert!(part(&volume, "link/x").is_err());
        assert!(part(&volume, "file/x").is_err());
        assert_eq!(names(&outside), Vec::<String>::new());
    }

    #[test]
    fn host_paths_are_held_to_their_types() {
        let here = tempfile::tempdir().expect("a folder for the test");
        let (dir, file) = (here.path().join("dir"), here.path().join("file"));
        assert!(host_path(&dir, "Directory").is_err());
        assert!(host_path(&dir, "DirectoryOrCreate").is_ok());
        assert!(host_path(&dir, "Directory").is_ok());
        assert!(host_path(&dir, "File").is_err());
        assert!(host_path(&file, "FileOrCreate").is_ok());
        let wrong = host_path(&file, "DirectoryOrCreate").unwrap_err().to_string();
        assert_eq!(
            wrong,
            format!("hostPath type check failed: {} is not a directory", file.display())
        );
        assert!(host_path(&file, "Socket").is_err());
        assert!(host_path(Path::new("/dev/null"), "CharDevice").is_ok());
        assert!(host_path(Path::new("/dev/null"), "BlockDevice").is_err());
    }
}
