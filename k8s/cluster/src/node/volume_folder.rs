//! The folders of a pod's volumes on this machine: makes them, writes the files of ConfigMaps, Secrets and tokens, and
//! keeps these files up to date.
//!
//! Files are replaced as a kubelet does it. A volume has a folder with the files, the link `..data` to this folder, and a
//! link through `..data` for each file. A change makes a new folder and then replaces `..data`, so that a program sees
//! either all old files or all new ones.

use super::NodeState;
use super::field::PodFields;
use super::object;
use super::pod_config::PodConfig;
use super::volume::{FileVolume, Files, TokenFile, Volume};
use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use kubernetes::request;
use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat2};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The time between two comparisons of a volume's files with their objects. A kubelet takes about a minute.
const REFRESH_INTERVAL: Duration = Duration::from_secs(10);

/// The link to the folder with the present files of a volume.
const DATA_LINK: &str = "..data";

/// The link that replaces [`DATA_LINK`].
const NEW_DATA_LINK: &str = "..data_tmp";

/// The bits of a file's permissions that let the group of the pod's volumes read the file.
const GROUP_READ: u32 = 0o440;

/// The permissions of the folder of an emptyDir. Every user may write to it.
const SCRATCH_MODE: u32 = 0o777;

/// The bit that gives new files in a folder the group of the folder.
const SET_GROUP_ID: u32 = 0o2000;

/// The volumes of a pod. Their folders are removed when this value is dropped, except for those of PersistentVolumes and
/// container images.
pub(super) struct PodVolumes {
    shared: Arc<NodeState>,
    pod: Arc<Pod>,
    /// The pod's address, which may be in a file.
    address: IpAddr,
    folder: tempfile::TempDir,
    /// The files that each volume has now.
    written: BTreeMap<String, Files>,
    /// Tokens, each with the time at which it must be replaced.
    tokens: BTreeMap<TokenFile, (String, Instant)>,
}

/// The folder of each volume by the volume's name.
pub(super) type VolumePaths = BTreeMap<String, PathBuf>;

impl PodVolumes {
    /// The volumes of a pod, without their folders.
    ///
    /// # Errors
    /// If the system refuses to make a folder.
    pub(super) fn new(shared: Arc<NodeState>, pod: Arc<Pod>, address: IpAddr) -> Result<Self> {
        // The folder is readable for root alone, so that other users of this machine cannot read Secrets.
        let folder = tempfile::tempdir_in(&shared.folder)
            .with_context(|| format!("create a temporary folder in {}", shared.folder.display()))?;
        Ok(Self { shared, pod, address, folder, written: BTreeMap::new(), tokens: BTreeMap::new() })
    }

    /// Makes the folders of all volumes. May be called again after an error.
    ///
    /// # Errors
    /// If an object or a container image is missing, a claim is not bound, the API server does not answer, or the system
    /// refuses. The message names the volume.
    pub(super) async fn prepare(&mut self, config: &PodConfig) -> Result<VolumePaths> {
        let mut paths = VolumePaths::new();
        for (name, volume) in &config.volumes {
            let path = self.prepare_volume(name, volume, config).await.with_context(|| format!("volume {name}"))?;
            paths.insert(name.clone(), path);
        }
        Ok(paths)
    }

    /// Replaces the files of volumes after their objects have changed. Never ends.
    pub(super) async fn keep_current(&mut self, config: &PodConfig) {
        loop {
            tokio::time::sleep(REFRESH_INTERVAL).await;
            for (name, volume) in &config.volumes {
                if let Volume::Files(volume) = volume {
                    // The object may have been deleted, or the API server may be down. The pod keeps the old files.
                    let _ = self.write_volume(name, volume, config).await;
                }
            }
        }
    }

    async fn prepare_volume(&mut self, name: &str, volume: &Volume, config: &PodConfig) -> Result<PathBuf> {
        match volume {
            Volume::Files(volume) => self.write_volume(name, volume, config).await,
            Volume::Scratch => {
                let folder = self.folder.path().join(name);
                make_folder(&folder, SCRATCH_MODE, config.fs_group)?;
                Ok(folder)
            }
            Volume::Claim { name, .. } => self.claimed_folder(name).await,
            Volume::Image(name) => Ok(self.shared.images.get(name)?.root),
        }
    }

    /// Writes the files of a volume, unless it has them already. Returns its folder.
    async fn write_volume(&mut self, name: &str, volume: &FileVolume, config: &PodConfig) -> Result<PathBuf> {
        let objects: BTreeSet<_> = volume.objects().collect();
        let namespace = self.pod.namespace().unwrap_or_default();
        let objects = object::fetch(&self.shared.client, &namespace, objects).await?;
        let mut tokens = BTreeMap::new();
        for token in volume.tokens() {
            tokens.insert(token.clone(), self.token(token, config).await?);
        }
        let fields = PodFields {
            pod: &self.pod,
            address: self.address,
            node: self.shared.network.families.primary.node_address(),
        };
        let files = volume.files(fields, &objects, &tokens)?;
        let folder = self.folder.path().join(name);
        if self.written.get(name) != Some(&files) {
            make_folder(&folder, 0o755, config.fs_group)?;
            replace_files(&folder, &files, config.fs_group).context("write the files")?;
            self.written.insert(name.to_owned(), files);
        }
        Ok(folder)
    }

    /// A token for a file. As a kubelet does, requests another one when four fifths of the token's lifetime are over.
    async fn token(&mut self, file: &TokenFile, config: &PodConfig) -> Result<String> {
        if let Some((token, renewal)) = self.tokens.get(file)
            && Instant::now() < *renewal
        {
            return Ok(token.clone());
        }
        let (account, namespace) = (&config.service_account, self.pod.namespace().unwrap_or_default());
        let accounts = Api::<ServiceAccount>::namespaced(self.shared.client.clone(), &namespace);
        // The token becomes invalid when the pod is deleted.
        let pod = BoundObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: self.pod.metadata.name.clone(),
            uid: self.pod.uid(),
        };
        let spec = TokenRequestSpec {
            audiences: file.audience.clone().into_iter().collect(),
            bound_object_ref: Some(pod),
            expiration_seconds: file.seconds,
        };
        let token = TokenRequest { spec, ..TokenRequest::default() };
        let answer = request(accounts.create_token_request(account, &PostParams::default(), &token)).await;
        let answer = answer.with_context(|| format!("request a token for the ServiceAccount {account}"))?;
        let status = answer.status.context("the API server's answer to a request for a token has no status")?;
        let lifetime = status.expiration_timestamp.0.duration_since(Timestamp::now());
        // The conversion fails for a negative time, if the token has expired already.
        let lifetime = Duration::try_from(lifetime).unwrap_or_default();
        let token = status.token;
        self.tokens.insert(file.clone(), (token.clone(), Instant::now() + lifetime * 4 / 5));
        Ok(token)
    }

    /// The folder of the PersistentVolume to which the claim `name` is bound.
    async fn claimed_folder(&self, name: &str) -> Result<PathBuf> {
        let client = &self.shared.client;
        let claims =
            Api::<PersistentVolumeClaim>::namespaced(client.clone(), &self.pod.namespace().unwrap_or_default());
        let claim = request(claims.get_opt(name)).await.with_context(|| format!("get PersistentVolumeClaim {name}"))?;
        let claim = claim.with_context(|| format!("PersistentVolumeClaim {name} does not exist"))?;
        let is_bound = claim.status.and_then(|status| status.phase).as_deref() == Some("Bound");
        let volume = claim.spec.and_then(|spec| spec.volume_name).filter(|_| is_bound);
        let volume = volume.with_context(|| format!("PersistentVolumeClaim {name} is not bound to a volume yet"))?;
        let found = request(Api::<PersistentVolume>::all(client.clone()).get(&volume)).await;
        let found = found.with_context(|| format!("get PersistentVolume {volume}"))?;
        host_folder(&found).with_context(|| format!("PersistentVolume {volume}"))
    }
}

/// The folder that a PersistentVolume names. Makes the folder if the volume says so.
fn host_folder(volume: &PersistentVolume) -> Result<PathBuf> {
    let host_path = volume.spec.as_ref().and_then(|spec| spec.host_path.as_ref());
    let host_path = host_path.context("this node knows only volumes with a hostPath")?;
    let path = PathBuf::from(&host_path.path);
    let is_plain = path.is_absolute() && path.components().all(|part| part != Component::ParentDir);
    ensure!(is_plain, "hostPath {} must be absolute and have no part ..", path.display());
    match host_path.type_.as_deref().unwrap_or_default() {
        "" | "Directory" => {}
        "DirectoryOrCreate" => {
            fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        }
        kind => bail!("this node knows no hostPath of the type {kind}"),
    }
    ensure!(path.is_dir(), "hostPath {} is no folder of this machine", path.display());
    Ok(path)
}

/// The path of a part of a volume. `folder` is the volume's folder and `sub_path` a relative path below it. If
/// `is_writable` is set and the part does not exist, makes a folder with the permissions of the volume, as a kubelet does.
///
/// # Errors
/// If there is no such part, or a link leads out of the volume. A program could otherwise make a link to any file of this
/// machine, and have it mounted.
pub(super) fn sub_path(folder: &Path, sub_path: &str, is_writable: bool) -> Result<PathBuf> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let open = |parent: &OwnedFd, path: &str| {
        openat2(parent, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS)
    };
    let root = File::open(folder).with_context(|| format!("open {}", folder.display()))?;
    let permissions = root.metadata().with_context(|| format!("open {}", folder.display()))?.permissions();
    let root = OwnedFd::from(root);
    let failed = || format!("subPath {sub_path}");
    let found = match open(&root, sub_path) {
        Err(Errno::NOENT) if is_writable => {
            let mut parent = root;
            for part in sub_path.split('/') {
                parent = match open(&parent, part) {
                    Err(Errno::NOENT) => {
                        mkdirat(&parent, part, Mode::RWXU).with_context(failed)?;
                        let made = open(&parent, part).with_context(failed)?;
                        // This is not given to `mkdirat`, since the umask would take bits away.
                        fs::set_permissions(descriptor_path(&made), permissions.clone()).with_context(failed)?;
                        made
                    }
                    opened => opened.with_context(failed)?,
                };
            }
            parent
        }
        opened => opened.with_context(failed)?,
    };
    fs::read_link(descriptor_path(&found)).with_context(failed)
}

fn descriptor_path(file: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Makes a folder, unless it exists. It gets the permissions `mode` and the group `group`.
fn make_folder(folder: &Path, mode: u32, group: Option<u32>) -> Result<()> {
    let make = || {
        fs::create_dir_all(folder)?;
        let mode = if group.is_some() { mode | SET_GROUP_ID } else { mode };
        chown(folder, None, group)?;
        // This comes after `chown`, which clears bits.
        fs::set_permissions(folder, Permissions::from_mode(mode))
    };
    make().with_context(|| format!("create {}", folder.display()))
}

/// Replaces all files of the volume in `folder`, so that a program sees either all old files or all new ones.
fn replace_files(folder: &Path, files: &Files, group: Option<u32>) -> Result<()> {
    let old = fs::read_link(folder.join(DATA_LINK)).ok();
    let data = tempfile::Builder::new().prefix("..").tempdir_in(folder)?.keep();
    make_folder(&data, 0o755, group)?;
    for (path, file) in files {
        let path = data.join(path);
        let mut parents: Vec<&Path> = path.ancestors().skip(1).take_while(|parent| *parent != data).collect();
        parents.reverse();
        for parent in parents {
            make_folder(parent, 0o755, group)?;
        }
        let write = || {
            fs::write(&path, &file.content)?;
            chown(&path, None, group)?;
            let mode = if group.is_some() { file.mode | GROUP_READ } else { file.mode };
            fs::set_permissions(&path, Permissions::from_mode(mode))
        };
        write().with_context(|| format!("write {}", path.display()))?;
    }
    let name = data.file_name().context("the new folder has a name")?;
    let new_link = folder.join(NEW_DATA_LINK);
    if new_link.is_symlink() {
        fs::remove_file(&new_link)?;
    }
    symlink(name, &new_link)?;
    fs::rename(&new_link, folder.join(DATA_LINK))?;
    let names: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &names {
        let link = folder.join(name);
        if !link.is_symlink() {
            symlink(Path::new(DATA_LINK).join(name), &link)?;
        }
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let is_link = entry.file_type()?.is_symlink() && entry.file_name() != DATA_LINK;
        if is_link && !entry.file_name().to_str().is_some_and(|name| names.contains(name)) {
            fs::remove_file(entry.path())?;
        }
    }
    if let Some(old) = old {
        fs::remove_dir_all(folder.join(old))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::volume::VolumeFile;
    use serde_json::json;
    use std::os::unix::fs::MetadataExt;

    fn files(files: &[(&str, &str, u32)]) -> Files {
        let file = |content: &str, mode| VolumeFile { content: content.into(), mode };
        files.iter().map(|&(path, content, mode)| (path.to_owned(), file(content, mode))).collect()
    }

    /// The names in a folder, without the folder with the data.
    fn names(folder: &Path) -> Result<BTreeSet<String>> {
        let entries = fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
        let links = entries.iter().filter(|entry| entry.path().is_symlink());
        Ok(links.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
    }

    #[test]
    fn files_are_replaced_as_one() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name);
        replace_files(folder.path(), &files(&[("a", "1", 0o400), ("b/c", "2", 0o644), ("d", "3", 0o644)]), None)?;
        assert_eq!(names(folder.path())?, ["..data", "a", "b", "d"].map(str::to_owned).into());
        assert_eq!((fs::read_to_string(path("a"))?, fs::read_to_string(path("b/c"))?), ("1".into(), "2".into()));
        assert_eq!(fs::metadata(path("a"))?.mode() & 0o7777, 0o400);
        let old = fs::canonicalize(path("a"))?;
        replace_files(folder.path(), &files(&[("a", "4", 0o640), ("b/e", "5", 0o644)]), None)?;
        assert_eq!(names(folder.path())?, ["..data", "a", "b"].map(str::to_owned).into());
        assert_eq!((fs::read_to_string(path("a"))?, fs::read_to_string(path("b/e"))?), ("4".into(), "5".into()));
        assert!(!path("b/c").exists() && !old.exists(), "old files must be removed");
        assert_eq!(fs::read_link(path("a"))?, Path::new("..data/a"));
        Ok(())
    }

    #[test]
    fn the_group_of_the_volumes_may_read_files_and_write_to_folders() -> Result<()> {
        if !rustix::process::geteuid().is_root() {
            // Only root may give a file another group.
            return Ok(());
        }
        let folder = tempfile::tempdir()?;
        replace_files(folder.path(), &files(&[("a", "1", 0o400)]), Some(1234))?;
        let file = fs::metadata(folder.path().join("a"))?;
        assert_eq!((file.gid(), file.mode() & 0o7777), (1234, 0o440));
        let scratch = folder.path().join("scratch");
        make_folder(&scratch, SCRATCH_MODE, Some(1234))?;
        let scratch = fs::metadata(scratch)?;
        assert_eq!((scratch.gid(), scratch.mode() & 0o7777), (1234, 0o2777));
        Ok(())
    }

    #[test]
    fn a_sub_path_stays_in_its_volume() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let root = folder.path().canonicalize()?;
        replace_files(&root, &files(&[("a", "1", 0o644)]), None)?;
        symlink("/etc", root.join("absolute"))?;
        symlink("../..", root.join("up"))?;
        assert_eq!(sub_path(&root, "a", false)?, root.join("a").canonicalize()?);
        for path in ["absolute", "absolute/passwd", "up", "up/x", "missing", "a/b"] {
            let error = sub_path(&root, path, false).expect_err(path);
            assert!(error.to_string().contains(path), "{error}");
        }
        for path in ["absolute/x", "up/x"] {
            sub_path(&root, path, true).expect_err(path);
        }
        assert!(!Path::new("/etc/x").exists());
        fs::set_permissions(&root, Permissions::from_mode(0o777))?;
        assert_eq!(sub_path(&root, "new/folder", true)?, root.join("new/folder"));
        assert_eq!(fs::metadata(root.join("new"))?.mode() & 0o7777, 0o777);
        Ok(())
    }

    #[test]
    fn only_plain_folders_can_be_persistent_volumes() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name).display().to_string();
        fs::write(path("file"), "")?;
        let find =
            |spec: serde_json::Value| host_folder(&serde_json::from_value(json!({"spec": spec})).expect("a volume"));
        let host_path = |path: &str, kind: &str| find(json!({"hostPath": {"path": path, "type": kind}}));
        assert_eq!(host_path(&path(""), "")?, folder.path());
        assert_eq!(host_path(&path("new"), "DirectoryOrCreate")?, folder.path().join("new"));
        for (path, kind, word) in [
            (path("missing"), "Directory", "is no folder"),
            (path("file"), "", "is no folder"),
            (path("../x"), "", "no part .."),
            ("relative".into(), "", "must be absolute"),
            (path("file"), "File", "the type File"),
        ] {
            let error = host_path(&path, kind).expect_err(word).to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(find(json!({"nfs": {"path": "/", "server": "a"}})).is_err());
        Ok(())
    }
}
