//! The volumes of a pod, the files in them, and where a container mounts them. Pure.

use super::container_config::image_name;
use super::field::PodFields;
use super::object::{ObjectName, Objects};
use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, KeyToPath, PodSpec, Volume as VolumeSpec, VolumeMount, VolumeProjection,
};
use std::collections::BTreeMap;

/// The permissions of files if the specification gives none.
const DEFAULT_MODE: u32 = 0o644;

/// The kernel's file systems. A folder that is made in them for a mount would appear on the machine itself.
const KERNEL_FOLDERS: [&str; 3] = ["/proc", "/sys", "/dev"];

/// The only folder of the kernel's file systems in which a volume may be mounted. It exists on every machine.
const SHARED_MEMORY: &str = "/dev/shm";

/// The volumes of a pod by name.
pub(super) type Volumes = BTreeMap<String, Volume>;

/// A volume of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Volume {
    /// Files of ConfigMaps, Secrets, tokens and fields: the volumes `configMap`, `secret`, `downwardAPI` and `projected`.
    Files(FileVolume),
    /// A folder that lives as long as the pod: the volume `emptyDir`.
    Scratch,
    /// The folder of the PersistentVolume to which a claim is bound.
    Claim {
        /// The name of the PersistentVolumeClaim.
        name: String,
        /// Whether the volume is read-only in all containers.
        is_read_only: bool,
    },
    /// The root file system of the container image of this name, read-only.
    Image(String),
}

/// A volume whose files the node writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileVolume {
    sources: Vec<FileSource>,
    /// The permissions of files for which no others are given.
    mode: u32,
}

/// A source of files.
#[derive(Debug, Clone, PartialEq, Eq)]
enum FileSource {
    /// The keys of a ConfigMap or a Secret.
    Object {
        object: ObjectName,
        /// The keys that become files; `None` for all keys.
        items: Option<Vec<Item>>,
        /// Whether the object or a key may be missing.
        is_optional: bool,
    },
    /// A token of the pod's ServiceAccount.
    Token(TokenFile),
    /// A field of the pod.
    Field {
        path: String,
        field: String,
        /// The file's permissions; `None` for those of the volume.
        mode: Option<u32>,
    },
}

/// A key of an object that becomes a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    key: String,
    path: String,
    /// The file's permissions; `None` for those of the volume.
    mode: Option<u32>,
}

/// A file with a token of the pod's ServiceAccount.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TokenFile {
    /// The path of the file in the volume.
    pub path: String,
    /// The audience of the token; `None` for the API server.
    pub audience: Option<String>,
    /// The lifetime of the token in seconds; `None` for the API server's default.
    pub seconds: Option<i64>,
}

/// A file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VolumeFile {
    /// The file's content.
    pub content: Vec<u8>,
    /// The file's permissions.
    pub mode: u32,
}

/// Files by their paths in the volume.
pub(super) type Files = BTreeMap<String, VolumeFile>;

/// A volume, or a part of it, in the file system of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// The volume's name.
    pub volume: String,
    /// The absolute path in the container, without `.` and `..`.
    pub path: String,
    /// The path in the volume of the mounted file or folder; `None` for the whole volume.
    pub sub_path: Option<String>,
    /// Whether the container may not write to the mount.
    pub is_read_only: bool,
}

/// The volumes of a pod.
///
/// # Errors
/// If this node does not know the kind of a volume, or a path leads out of a volume. The message names the volume.
pub(super) fn volumes(spec: &PodSpec) -> Result<Volumes> {
    let volumes = spec.volumes.iter().flatten();
    let volumes = volumes.map(|volume| {
        let parsed = parse(volume).with_context(|| format!("volume {}", volume.name))?;
        Ok((volume.name.clone(), parsed))
    });
    volumes.collect()
}

/// The mounts of a container. A mount comes after those whose paths contain its path.
///
/// # Errors
/// If a path is relative, has `..` or is used twice, the volume is unknown, or the mount needs a feature that this node
/// does not have. The message names the path.
pub(super) fn mounts(container: &Container, volumes: &Volumes) -> Result<Vec<Mount>> {
    let mounts = container.volume_mounts.iter().flatten();
    let mounts =
        mounts.map(|spec| mount(spec, volumes).with_context(|| format!("volumeMounts has {}", spec.mount_path)));
    let mut mounts = mounts.collect::<Result<Vec<Mount>>>()?;
    mounts.sort_by(|one, other| one.path.cmp(&other.path));
    if let Some(pair) = mounts.windows(2).find(|pair| pair[0].path == pair[1].path) {
        bail!("volumeMounts has {} twice", pair[0].path);
    }
    Ok(mounts)
}

impl Volume {
    fn is_read_only(&self) -> bool {
        match self {
            Self::Files(_) | Self::Image(_) => true,
            Self::Claim { is_read_only, .. } => *is_read_only,
            Self::Scratch => false,
        }
    }
}

impl FileVolume {
    /// The objects whose keys are files of the volume.
    pub(super) fn objects(&self) -> impl Iterator<Item = &ObjectName> {
        self.sources.iter().filter_map(|source| match source {
            FileSource::Object { object, .. } => Some(object),
            FileSource::Token(_) | FileSource::Field { .. } => None,
        })
    }

    /// The files with tokens.
    pub(super) fn tokens(&self) -> impl Iterator<Item = &TokenFile> {
        self.sources.iter().filter_map(|source| match source {
            FileSource::Token(token) => Some(token),
            FileSource::Object { .. } | FileSource::Field { .. } => None,
        })
    }

    /// The files of the volume. Later sources win over earlier ones. `tokens` must have all of [`FileVolume::tokens`].
    ///
    /// # Errors
    /// If a required object or key is missing, or this node does not know a field.
    pub(super) fn files(
        &self,
        fields: PodFields<'_>,
        objects: &Objects,
        tokens: &BTreeMap<TokenFile, String>,
    ) -> Result<Files> {
        let mut files = Files::new();
        let mut add = |path: &str, mode: Option<u32>, content: Vec<u8>| {
            files.insert(path.to_owned(), VolumeFile { content, mode: mode.unwrap_or(self.mode) });
        };
        for source in &self.sources {
            match source {
                FileSource::Object { object, items, is_optional } => {
                    let Some(found) = objects.get(object) else {
                        ensure!(*is_optional, "{object} does not exist");
                        continue;
                    };
                    let get = |key: &str| found.data.get(key).or_else(|| found.binary.get(key)).cloned();
                    let Some(items) = items else {
                        for (key, content) in found.data.iter().chain(&found.binary) {
                            add(key, None, content.clone());
                        }
                        continue;
                    };
                    for item in items {
                        match get(&item.key) {
                            Some(content) => add(&item.path, item.mode, content),
                            None => ensure!(*is_optional, "{object} has no key {}", item.key),
                        }
                    }
                }
                FileSource::Token(token) => {
                    let text = tokens.get(token).with_context(|| format!("the file {} has no token", token.path))?;
                    add(&token.path, None, text.clone().into_bytes());
                }
                FileSource::Field { path, field, mode } => add(path, *mode, fields.get(field)?.into_bytes()),
            }
        }
        Ok(files)
    }
}

fn parse(spec: &VolumeSpec) -> Result<Volume> {
    if let Some(map) = &spec.config_map {
        let source = object(ObjectName::ConfigMap(map.name.clone()), map.items.as_deref(), map.optional)?;
        Ok(Volume::Files(FileVolume { sources: vec![source], mode: mode(map.default_mode)?.unwrap_or(DEFAULT_MODE) }))
    } else if let Some(secret) = &spec.secret {
        let name = secret.secret_name.clone().context("secret has no secretName")?;
        let source = object(ObjectName::Secret(name), secret.items.as_deref(), secret.optional)?;
        let mode = mode(secret.default_mode)?.unwrap_or(DEFAULT_MODE);
        Ok(Volume::Files(FileVolume { sources: vec![source], mode }))
    } else if let Some(fields) = &spec.downward_api {
        let sources = fields.items.iter().flatten().map(field).collect::<Result<_>>()?;
        Ok(Volume::Files(FileVolume { sources, mode: mode(fields.default_mode)?.unwrap_or(DEFAULT_MODE) }))
    } else if let Some(projected) = &spec.projected {
        let sources = projected.sources.iter().flatten().map(projection).collect::<Result<Vec<_>>>()?;
        let mode = mode(projected.default_mode)?.unwrap_or(DEFAULT_MODE);
        Ok(Volume::Files(FileVolume { sources: sources.into_iter().flatten().collect(), mode }))
    } else if spec.empty_dir.is_some() {
        Ok(Volume::Scratch)
    } else if let Some(claim) = &spec.persistent_volume_claim {
        let is_read_only = claim.read_only.unwrap_or(false);
        Ok(Volume::Claim { name: claim.claim_name.clone(), is_read_only })
    } else if let Some(image) = &spec.image {
        let reference = image.reference.as_deref().filter(|reference| !reference.is_empty());
        Ok(Volume::Image(image_name(reference.context("image has no reference")?).to_owned()))
    } else {
        bail!(
            "this node knows only the kinds configMap, secret, downwardAPI, projected, emptyDir, persistentVolumeClaim \
             and image"
        )
    }
}

fn projection(projection: &VolumeProjection) -> Result<Vec<FileSource>> {
    if let Some(map) = &projection.config_map {
        Ok(vec![object(ObjectName::ConfigMap(map.name.clone()), map.items.as_deref(), map.optional)?])
    } else if let Some(secret) = &projection.secret {
        Ok(vec![object(ObjectName::Secret(secret.name.clone()), secret.items.as_deref(), secret.optional)?])
    } else if let Some(fields) = &projection.downward_api {
        fields.items.iter().flatten().map(field).collect()
    } else if let Some(token) = &projection.service_account_token {
        let (audience, seconds) = (token.audience.clone(), token.expiration_seconds);
        Ok(vec![FileSource::Token(TokenFile { path: inner_path(&token.path)?, audience, seconds })])
    } else {
        bail!("this node knows only the sources configMap, secret, downwardAPI and serviceAccountToken")
    }
}

fn object(object: ObjectName, items: Option<&[KeyToPath]>, optional: Option<bool>) -> Result<FileSource> {
    let item = |item: &KeyToPath| -> Result<Item> {
        Ok(Item { key: item.key.clone(), path: inner_path(&item.path)?, mode: mode(item.mode)? })
    };
    let items = items.filter(|items| !items.is_empty());
    let items = items.map(|items| items.iter().map(item).collect::<Result<_>>()).transpose()?;
    Ok(FileSource::Object { object, items, is_optional: optional.unwrap_or(false) })
}

fn field(file: &DownwardAPIVolumeFile) -> Result<FileSource> {
    let field = file.field_ref.as_ref();
    let field = field.with_context(|| format!("the file {}: this node knows no source but fieldRef", file.path))?;
    Ok(FileSource::Field { path: inner_path(&file.path)?, field: field.field_path.clone(), mode: mode(file.mode)? })
}

fn mode(mode: Option<i32>) -> Result<Option<u32>> {
    let in_range = |mode: i32| {
        let known = u32::try_from(mode).ok().filter(|mode| *mode <= 0o777);
        known.with_context(|| format!("the mode {mode} is not from 0 to 0777"))
    };
    mode.map(in_range).transpose()
}

fn mount(spec: &VolumeMount, volumes: &Volumes) -> Result<Mount> {
    let volume = volumes.get(&spec.name).with_context(|| format!("the pod has no volume {}", spec.name))?;
    ensure!(spec.sub_path_expr.is_none(), "this node does not know subPathExpr");
    let propagation = spec.mount_propagation.as_deref().unwrap_or("None");
    ensure!(propagation == "None", "this node does not know mountPropagation {propagation}");
    let path = spec.mount_path.strip_prefix('/').context("the path must be absolute")?;
    let path = format!("/{}", inner_path(path)?);
    let is_below =
        |folder: &str| path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let is_of_kernel = KERNEL_FOLDERS.iter().any(|folder| is_below(folder)) && path != SHARED_MEMORY;
    ensure!(!is_of_kernel, "this node mounts no volumes in /proc, /sys and /dev, except for {SHARED_MEMORY}");
    let sub_path = spec.sub_path.as_deref().filter(|path| !path.is_empty());
    let sub_path = sub_path.map(inner_path).transpose().context("subPath")?;
    let is_read_only = spec.read_only.unwrap_or(false) || volume.is_read_only();
    Ok(Mount { volume: spec.name.clone(), path, sub_path, is_read_only })
}

/// A relative path without `.` and empty parts.
///
/// # Errors
/// If the path is absolute or empty, or has the part `..` or a zero byte.
fn inner_path(path: &str) -> Result<String> {
    ensure!(!path.starts_with('/') && !path.contains('\0'), "the path {path:?} must be relative");
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    ensure!(!parts.contains(&".."), "the path {path:?} must not have the part ..");
    ensure!(!parts.is_empty(), "the path {path:?} names no file or folder");
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::object::ObjectData;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    fn parsed(volume: Value) -> Result<Volumes> {
        let mut named = json!({"name": "v"});
        named.as_object_mut().expect("an object").extend(volume.as_object().expect("an object").clone());
        volumes(&serde_json::from_value(json!({"containers": [], "volumes": [named]})).expect("a spec"))
    }

    fn objects() -> Objects {
        let data = |data: &[(&str, &str)]| {
            data.iter().map(|&(key, text)| (key.to_owned(), text.as_bytes().to_vec())).collect::<BTreeMap<_, _>>()
        };
        let map = ObjectData { data: data(&[("a", "1"), ("b", "2")]), binary: data(&[("c", "3")]) };
        let secret = ObjectData { data: data(&[("a", "4")]), binary: BTreeMap::new() };
        Objects::from([(ObjectName::ConfigMap("m".into()), map), (ObjectName::Secret("s".into()), secret)])
    }

    /// The files of a volume, as a list of PATH=CONTENT/MODE.
    fn files(volume: Value) -> Result<Vec<String>> {
        let volumes = parsed(volume)?;
        let Volume::Files(volume) = &volumes["v"] else { panic!("{volumes:?} has no files") };
        let pod: Pod = serde_json::from_value(json!({"metadata": {"namespace": "shop"}})).expect("a pod");
        let fields = PodFields { pod: &pod, address: [10, 0, 0, 2].into(), node: [10, 0, 0, 1].into() };
        let tokens = volume.tokens().map(|token| (token.clone(), format!("token for {:?}", token.audience))).collect();
        let files = volume.files(fields, &objects(), &tokens)?;
        let line = |(path, file): (String, VolumeFile)| {
            format!("{path}={}/{:o}", String::from_utf8_lossy(&file.content), file.mode)
        };
        Ok(files.into_iter().map(line).collect())
    }

    #[test]
    fn volumes_have_the_files_of_their_objects() -> Result<()> {
        for (volume, expected) in [
            (json!({"configMap": {"name": "m"}}), vec!["a=1/644", "b=2/644", "c=3/644"]),
            (
                json!({"configMap": {"name": "m", "defaultMode": 0o440, "items": [
                    {"key": "b", "path": "x/./y"}, {"key": "c", "path": "z", "mode": 0o400}]}}),
                vec!["x/y=2/440", "z=3/400"],
            ),
            (json!({"secret": {"secretName": "s", "defaultMode": 0o400}}), vec!["a=4/400"]),
            (json!({"configMap": {"name": "missing", "optional": true}}), vec![]),
            (
                json!({"secret": {"secretName": "s", "optional": true, "items": [{"key": "missing", "path": "x"}]}}),
                vec![],
            ),
        ] {
            assert_eq!(files(volume.clone())?, expected, "{volume}");
        }
        Ok(())
    }

    #[test]
    fn the_volume_with_the_token_of_a_pod_has_three_files() -> Result<()> {
        // The API server of version 1.33 adds this volume to pods.
        let volume = json!({"projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "m", "items": [{"key": "a", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
            {"secret": {"name": "s"}}]}});
        assert_eq!(files(volume)?, ["a=4/644", "ca.crt=1/644", "namespace=shop/644", "token=token for None/644"]);
        Ok(())
    }

    #[test]
    fn claims_images_and_folders_are_volumes() -> Result<()> {
        for (volume, expected) in [
            (json!({"emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}), Volume::Scratch),
            (
                json!({"persistentVolumeClaim": {"claimName": "c", "readOnly": true}}),
                Volume::Claim { name: "c".into(), is_read_only: true },
            ),
            (
                json!({"image": {"reference": "registry.example:5000/a/model:1@sha256:00"}}),
                Volume::Image("model".into()),
            ),
        ] {
            assert_eq!(parsed(volume)?["v"], expected);
        }
        Ok(())
    }

    #[test]
    fn wrong_volumes_are_refused_by_name() {
        let item = |path: &str| json!({"configMap": {"name": "m", "items": [{"key": "a", "path": path}]}});
        for (volume, word) in [
            (json!({"hostPath": {"path": "/"}}), "this node knows only"),
            (item("../a"), "the part .."),
            (item("/a"), "must be relative"),
            (item("."), "names no file"),
            (json!({"projected": {"sources": [{"serviceAccountToken": {"path": "a/../../b"}}]}}), "the part .."),
            (json!({"projected": {"sources": [{"clusterTrustBundle": {"path": "a"}}]}}), "knows only the sources"),
            (json!({"secret": {"secretName": "s", "defaultMode": 0o1000}}), "the mode 512"),
            (json!({"image": {"reference": ""}}), "no reference"),
            (json!({"configMap": {"name": "missing"}}), "ConfigMap missing does not exist"),
            (json!({"secret": {"secretName": "s", "items": [{"key": "k", "path": "x"}]}}), "Secret s has no key k"),
        ] {
            let error = format!("{:#}", files(volume.clone()).expect_err(word));
            assert!(error.contains(word), "{error} for {volume}");
        }
    }

    fn mounted(mounts: Value) -> Result<Vec<Mount>> {
        let volumes = Volumes::from([
            ("scratch".to_owned(), Volume::Scratch),
            ("image".to_owned(), Volume::Image("a".into())),
            ("claim".to_owned(), Volume::Claim { name: "c".into(), is_read_only: true }),
        ]);
        let container = json!({"name": "a", "volumeMounts": mounts});
        super::mounts(&serde_json::from_value(container).expect("a container"), &volumes)
    }

    #[test]
    fn mounts_are_in_the_order_in_which_they_must_be_made() -> Result<()> {
        let found = mounted(json!([
            {"name": "image", "mountPath": "/a/b/", "subPath": "x//y"},
            {"name": "scratch", "mountPath": "/a", "subPath": ""},
            {"name": "claim", "mountPath": "/c"},
            {"name": "scratch", "mountPath": "/dev/shm", "readOnly": true},
        ]))?;
        let found: Vec<_> =
            found.iter().map(|mount| (mount.path.as_str(), mount.sub_path.as_deref(), mount.is_read_only)).collect();
        let expected = [("/a", None, false), ("/a/b", Some("x/y"), true), ("/c", None, true), ("/dev/shm", None, true)];
        assert_eq!(found, expected);
        Ok(())
    }

    #[test]
    fn wrong_mounts_are_refused_with_their_path() {
        let at = |path: &str| json!([{"name": "scratch", "mountPath": path}]);
        let with = |key: &str, value: &str| json!([{"name": "scratch", "mountPath": "/a", key: value}]);
        for (mounts, word) in [
            (at("a"), "volumeMounts has a: the path must be absolute"),
            (at("/a/../b"), "the part .."),
            (at("/"), "names no file or folder"),
            (at("/proc/a"), "in /proc, /sys and /dev"),
            (at("/dev"), "in /proc, /sys and /dev"),
            (at("/./dev/shm/a"), "in /proc, /sys and /dev"),
            (with("subPath", "../a"), "subPath: the path \"../a\" must not have the part .."),
            (with("subPath", "/a"), "must be relative"),
            (with("subPathExpr", "$(A)"), "subPathExpr"),
            (with("mountPropagation", "Bidirectional"), "mountPropagation"),
            (json!([{"name": "other", "mountPath": "/a"}]), "no volume other"),
            (json!([{"name": "scratch", "mountPath": "/a"}, {"name": "image", "mountPath": "/a/"}]), "/a twice"),
        ] {
            let error = format!("{:#}", mounted(mounts.clone()).expect_err(word));
            assert!(error.contains(word), "{error} for {mounts}");
        }
        assert!(mounted(at("/devices")).is_ok());
    }
}
