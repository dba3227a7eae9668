//! The container images that the node runs. An image is a folder with a root file system, and perhaps the name of a
//! program in it.
//!
//! The script k8s/images/gather makes the images of the programs in this program's folder. The Dockerfile runs it, too.

use crate::paths;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

/// The programs of the workspace that have a container image.
pub const PROGRAMS: [&str; 4] = ["dispatcher", "loadgen", "replica", "scaler"];

/// Debian's Prometheus. It has a container image if it is installed.
const PROMETHEUS: &str = "/usr/bin/prometheus";

/// A container image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The folder with the root file system.
    pub root: PathBuf,
    /// The name of the program in `/usr/bin` that a container runs; `None` for an image that can only be a volume.
    pub program: Option<String>,
}

/// The container images of a node by name. Clones of this value have the same images.
#[derive(Debug, Clone)]
pub struct ImageStore {
    /// The folder for the images that the store makes.
    folder: PathBuf,
    images: Arc<Mutex<BTreeMap<String, Image>>>,
}

impl ImageStore {
    /// A store without images. Images that it makes go to `folder`.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, images: Arc::default() }
    }

    /// A store with the images of the workspace's programs, and of Prometheus if it is installed. Makes the images of the
    /// programs that were built after their images.
    ///
    /// # Errors
    /// If a program is missing, or its container image cannot be made.
    pub fn update(folder: PathBuf) -> Result<Self> {
        let store = Self::new(folder);
        for name in PROGRAMS {
            store.gather(name, &paths::program(name))?;
        }
        if Path::new(PROMETHEUS).is_file() {
            store.gather("prometheus", Path::new(PROMETHEUS))?;
        }
        Ok(store)
    }

    /// Adds the image `name` with a program of this machine and the libraries that it needs. Makes the image, unless it
    /// is newer than the program.
    ///
    /// # Errors
    /// If the program is missing, or its image cannot be made.
    pub fn gather(&self, name: &str, program: &Path) -> Result<()> {
        let built = modified(program)
            .with_context(|| format!("find {}; build it: cargo build --release --workspace", program.display()))?;
        let root = self.folder.join(name);
        // This file is written last, so that a container image is made again if making it was interrupted.
        let stamp = self.folder.join(format!("{name}.made"));
        if !modified(&stamp).is_ok_and(|made| made > built) {
            make(program, &root).with_context(|| format!("make the container image of {name}"))?;
            fs::write(&stamp, "").with_context(|| format!("write {}", stamp.display()))?;
        }
        let program = program.file_name().and_then(|name| name.to_str());
        self.add(name, root, Some(program.context("the program's name is no UTF-8")?))
    }

    /// Adds the image `name` with the root file system in the folder `root`. A container runs `program` in its `/usr/bin`.
    /// Without a program, the image can only be a volume. The image of an earlier call with the same name is replaced.
    ///
    /// # Errors
    /// If the name is not one that a pod can refer to, or the folder or the program in it is missing.
    pub fn add(&self, name: &str, root: PathBuf, program: Option<&str>) -> Result<()> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
        let is_name =
            name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric()) && name.bytes().all(is_plain);
        ensure!(is_name, "the name of an image must have a-z, 0-9, -, . and _ only, not {name:?}");
        ensure!(root.is_dir(), "the image {name}: {} is no folder", root.display());
        if let Some(program) = program {
            let path = root.join("usr/bin").join(program);
            ensure!(path.is_file(), "the image {name} has no program {}", path.display());
        }
        let image = Image { root, program: program.map(str::to_owned) };
        self.images().insert(name.to_owned(), image);
        Ok(())
    }

    /// Adds the image `name` with the files and the program of the image `base`, and with the file or folder `source` at
    /// `path`. Links the files, so that an image with a large model takes no room. A file that is changed later through
    /// its own path may thus change in the image, too.
    ///
    /// # Errors
    /// If there is no image `base`, the path is not absolute, the image has it already, or a file cannot be linked.
    pub fn extend(&self, name: &str, base: &str, source: &Path, path: &str) -> Result<()> {
        let base = self.get(base)?;
        let root = self.folder.join(name);
        ensure!(root != base.root, "the image {name} cannot be made of itself");
        if root.exists() {
            fs::remove_dir_all(&root).with_context(|| format!("remove the old container image {}", root.display()))?;
        }
        link(&base.root, &root)?;
        let relative = Path::new(path).strip_prefix("/").ok();
        let relative = relative.filter(|path| path.components().all(|part| matches!(part, Component::Normal(_))));
        let target = root.join(relative.with_context(|| format!("{path} must be absolute and have no part .."))?);
        ensure!(!target.exists(), "the image {name} has {path} already");
        let parent = target.parent().context("the path is below the root")?;
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        link(source, &target)?;
        self.add(name, root, base.program.as_deref())
    }

    /// The image `name`.
    ///
    /// # Errors
    /// If there is no such image. The message goes into the pod's status.
    pub fn get(&self, name: &str) -> Result<Image> {
        let images = self.images();
        let known = || images.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        images
            .get(name)
            .cloned()
            .with_context(|| format!("this node has no container image {name:?}, only {}", known()))
    }

    fn images(&self) -> MutexGuard<'_, BTreeMap<String, Image>> {
        self.images.lock().expect("no thread panics while it holds the lock")
    }
}

/// Makes hard links in `target` to all files of `source`, which is a file or a folder. Copies the files of another file
/// system.
fn link(source: &Path, target: &Path) -> Result<()> {
    let kind = fs::symlink_metadata(source).with_context(|| format!("read {}", source.display()))?.file_type();
    let to = || format!("link {} to {}", target.display(), source.display());
    if kind.is_dir() {
        fs::create_dir_all(target).with_context(|| format!("create {}", target.display()))?;
        for entry in fs::read_dir(source).with_context(|| format!("read {}", source.display()))? {
            let entry = entry.with_context(|| format!("read {}", source.display()))?;
            link(&entry.path(), &target.join(entry.file_name()))?;
        }
        Ok(())
    } else if kind.is_symlink() {
        let link = fs::read_link(source).with_context(to)?;
        std::os::unix::fs::symlink(link, target).with_context(to)
    } else {
        match fs::hard_link(source, target) {
            Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => {
                fs::copy(source, target).map(drop).with_context(to)
            }
            linked => linked.with_context(to),
        }
    }
}

fn make(program: &Path, image: &Path) -> Result<()> {
    if image.exists() {
        fs::remove_dir_all(image).with_context(|| format!("remove the old container image {}", image.display()))?;
    }
    let script = paths::root().join("k8s/images/gather");
    let output = Command::new("sh").arg(&script).arg(program).arg(image).output();
    let output = output.with_context(|| format!("run sh {}", script.display()))?;
    let message = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} failed ({}): {}", script.display(), output.status, message.trim());
    Ok(())
}

fn modified(path: &Path) -> std::io::Result<SystemTime> {
    fs::metadata(path)?.modified()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) -> Result<()> {
        fs::create_dir_all(path.parent().expect("a folder"))?;
        Ok(fs::write(path, text)?)
    }

    #[test]
    fn an_image_can_be_made_of_another_one() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name);
        let store = ImageStore::new(path("images"));
        write(&path("base/usr/bin/serve"), "program")?;
        std::os::unix::fs::symlink("serve", path("base/usr/bin/alias"))?;
        write(&path("weights/a/b"), "weights")?;
        store.add("base", path("base"), Some("serve"))?;
        store.extend("model", "base", &path("weights"), "/models/one")?;
        let image = store.clone().get("model")?;
        assert_eq!(image, Image { root: path("images/model"), program: Some("serve".into()) });
        let text = |name: &str| fs::read_to_string(image.root.join(name));
        assert_eq!((text("usr/bin/alias")?, text("models/one/a/b")?), ("program".into(), "weights".into()));
        assert!(!path("base/models").exists(), "the other image must not change");
        for (name, base, at, word) in [
            ("model", "base", "models", "must be absolute"),
            ("model", "base", "/a/../../b", "no part .."),
            ("model", "base", "/usr", "has /usr already"),
            ("model", "missing", "/a", "no container image"),
            ("model", "model", "/a", "of itself"),
        ] {
            let error = format!("{:#}", store.extend(name, base, &path("weights"), at).expect_err(word));
            assert!(error.contains(word), "{error}");
        }
        Ok(())
    }

    #[test]
    fn wrong_images_are_refused() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let store = ImageStore::new(folder.path().join("images"));
        for (name, root, program, word) in [
            ("../a", folder.path(), None, "the name of an image"),
            ("", folder.path(), None, "the name of an image"),
            ("a", Path::new("/missing"), None, "is no folder"),
            ("a", folder.path(), Some("serve"), "has no program"),
        ] {
            let error = store.add(name, root.to_owned(), program).expect_err(word).to_string();
            assert!(error.contains(word), "{error}");
        }
        store.add("weights", folder.path().to_owned(), None)?;
        let error = store.get("replica").expect_err("it is missing").to_string();
        assert_eq!(error, "this node has no container image \"replica\", only weights");
        Ok(())
    }

    #[test]
    fn a_program_without_libraries_is_an_image_too() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name);
        write(&path("source.c"), "int main(void) { return 7; }")?;
        let compiler =
            Command::new("cc").args(["source.c", "-static", "-o", "program"]).current_dir(&folder).status()?;
        ensure!(compiler.success(), "cc failed: {compiler}");
        let store = ImageStore::new(path("images"));
        store.gather("static", &path("program"))?;
        let status = Command::new("chroot").arg(store.get("static")?.root).arg("/usr/bin/program").status();
        // Only root may use chroot.
        ensure!(!rustix::process::geteuid().is_root() || status?.code() == Some(7), "the program does not run");
        Ok(())
    }

    #[test]
    fn onnx_runtime_is_gathered_if_it_is_beside_libtorch() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name);
        let compile = |source: &str, arguments: &[&str]| -> Result<()> {
            fs::write(path("source.c"), source)?;
            let compiler = Command::new("cc").arg("source.c").args(arguments).current_dir(folder.path()).status()?;
            ensure!(compiler.success(), "cc failed: {compiler}");
            Ok(())
        };
        compile("int torch(void) { return 0; }", &["-shared", "-fPIC", "-o", "libtorch_cpu.so"])?;
        let search = format!("-Wl,-rpath,{}", folder.path().display());
        let link = ["-o", "program", "-L.", "-ltorch_cpu", &search];
        compile("int torch(void); int main(void) { return torch(); }", &link)?;
        for has_runtime in [false, true] {
            if has_runtime {
                fs::copy(path("libtorch_cpu.so"), path("libonnxruntime.so.1"))?;
            }
            make(&path("program"), &path("image"))?;
            let libraries = path("image/usr/lib/roundhouse");
            assert!(libraries.join("libtorch_cpu.so").exists());
            assert_eq!(libraries.join("libonnxruntime.so.1").exists(), has_runtime);
        }
        Ok(())
    }
}
