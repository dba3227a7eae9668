//! `cargo xtask images` with docker and with podman: the images have the names of the manifests, and run. The images have
//! the programs of this build, so that nothing is compiled in a container, and no other image is fetched.

use harness::stack::ServiceProcess;
use harness::{command, http, paths};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use xtask::images::{PREFIX, TAG};
use xtask::requirement::HADOLINT;

/// The lock that a test holds, since both would write the root file systems of the images to the same folder.
static LOCK: Mutex<()> = Mutex::new(());

/// The images that are built without `--only`.
const NAMES: [&str; 4] = ["dispatcher", "scaler", "loadgen", "replica"];

/// Time limit for one command of an engine.
const LIMIT: Duration = Duration::from_secs(300);

/// The images, containers and layers of an engine, apart from those of the user. They are removed when this is dropped.
struct Engine {
    name: &'static str,
    environment: Vec<(&'static str, String)>,
    folder: PathBuf,
    /// The process of docker's daemon.
    daemon: Option<Child>,
    /// The folder of the engine's sockets, whose paths may have 108 bytes at most: with a longer one, podman waits 20 s for
    /// the end of a container. The folder is removed last.
    _sockets: Option<tempfile::TempDir>,
}

impl Engine {
    /// An engine with an empty folder for its files.
    fn new(name: &'static str, environment: Vec<(&'static str, String)>) -> Self {
        let folder = paths::output("test").join(format!("images-{name}"));
        let _absent = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("writable");
        Self { name, environment, folder, daemon: None, _sockets: None }
    }

    /// podman with its files in a folder of the test.
    ///
    /// # Errors
    /// The reason why podman does not run here.
    fn podman() -> Result<Self, String> {
        let run = tempfile::tempdir().expect("a temporary folder");
        let mut engine = Self::new("podman", Vec::new());
        let path = |name: &str| engine.folder.join(name).display().to_string();
        // Without a mount of its own folder, podman leaves nothing that must be unmounted.
        let storage = format!(
            "[storage]\ndriver = \"overlay\"\ngraphroot = {:?}\nrunroot = {:?}\n\
             [storage.options.overlay]\nskip_mount_home = \"true\"\n",
            path("graph"),
            run.path().join("run")
        );
        // The runtime crun refuses a machine with control groups of both versions.
        let runtime = if has_program("runc") { "runtime = \"runc\"\n" } else { "" };
        // podman asks for higher limits than a sandbox may permit.
        let limits = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n";
        let engine_settings =
            format!("{limits}[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n{runtime}");
        for (variable, name, text) in [
            ("CONTAINERS_STORAGE_CONF", "storage.conf", storage),
            ("CONTAINERS_CONF", "containers.conf", engine_settings),
        ] {
            let path = engine.folder.join(name).display().to_string();
            fs::write(&path, text).expect("writable");
            engine.environment.push((variable, path));
        }
        engine._sockets = Some(run);
        let info = command::output(engine.command(&["info"]).stdin(Stdio::null()), LIMIT);
        match info {
            Ok(output) if output.status.success() => Ok(engine),
            Ok(output) => Err(format!("podman does not run: {}", String::from_utf8_lossy(&output.stderr).trim())),
            Err(error) => Err(format!("{error:#}; on Debian and Ubuntu: apt-get install podman")),
        }
    }

    /// docker with a daemon of the test.
    ///
    /// # Errors
    /// The reason why docker does not run here.
    fn docker() -> Result<Self, String> {
        if !geteuid().is_root() {
            return Err("the daemon of docker needs root".into());
        }
        if !has_program("dockerd") {
            return Err("dockerd is not installed; on Debian and Ubuntu: apt-get install docker.io".into());
        }
        let sockets = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| sockets.path().join(name).display().to_string();
        // The clients of some vendors, elsewhere in $PATH, cannot build without the package buildx.
        let search = format!("/usr/bin:{}", std::env::var("PATH").unwrap_or_default());
        let socket = format!("unix://{}", path("docker.sock"));
        let mut engine = Self::new("docker", vec![("PATH", search), ("DOCKER_HOST", socket.clone())]);
        let build = command::output(engine.command(&["build", "--help"]).stdin(Stdio::null()), LIMIT);
        if !build.is_ok_and(|output| output.status.success()) {
            return Err("docker cannot build images; it may lack the package buildx".into());
        }
        let log = engine.folder.join("daemon.log");
        let output = File::create(&log).expect("writable");
        let mut daemon = Command::new("dockerd");
        daemon.args(["--host", &socket, "--exec-root", &path("exec"), "--pidfile", &path("pid"), "--data-root"]);
        daemon.arg(engine.folder.join("data")).args(["--bridge=none", "--iptables=false", "--ip6tables=false"]);
        daemon.stdin(Stdio::null()).stdout(output.try_clone().expect("a file can have two handles")).stderr(output);
        engine.daemon = Some(daemon.spawn().expect("dockerd starts"));
        engine._sockets = Some(sockets);
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let has_ended =
                engine.daemon.as_mut().is_some_and(|daemon| daemon.try_wait().is_ok_and(|end| end.is_some()));
            if has_ended || Instant::now() > deadline {
                let text = fs::read_to_string(&log).unwrap_or_default();
                let last = text.lines().last().unwrap_or_default();
                return Err(format!("dockerd cannot run here: {last}"));
            }
            let info = command::output(&mut engine.command(&["info"]), LIMIT).expect("docker runs");
            if info.status.success() {
                return Ok(engine);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn with_environment(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.envs(self.environment.iter().map(|(name, value)| (name, value))).env("DOCKER_BUILDKIT", "1");
        command
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.with_environment(self.name);
        command.args(arguments);
        command
    }

    /// The output of a command that must succeed.
    fn output(&self, arguments: &[&str]) -> String {
        let output = command::output(&mut self.command(arguments), LIMIT).expect("the engine runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} {arguments:?}: {errors}", self.name);
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
    }

    /// Runs `cargo xtask images` for the programs of this build and returns what it prints. The umask is one with which only
    /// the owner may read new files.
    fn build(&self, flags: &[&str]) -> String {
        let programs = paths::program("replica");
        let mut script = self.with_environment("sh");
        script.args(["-c", "umask 077; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_xtask"), "images"]);
        script.args(["--engine", self.name, "--programs"]).arg(programs.parent().expect("in a folder")).args(flags);
        // The output of the engine is longer than a pipe.
        let log = self.folder.join("build.log");
        let output = File::create(&log).expect("writable");
        script.stdin(Stdio::null()).stdout(output.try_clone().expect("a file can have two handles")).stderr(output);
        let status = command::status(&mut script, LIMIT).expect("xtask runs");
        let text = fs::read_to_string(&log).expect("UTF-8");
        assert!(status.success(), "{text}");
        text
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            let id = Pid::from_raw(daemon.id().cast_signed()).expect("a process id is not 0");
            let _ended = kill_process(id, Signal::TERM);
            if !matches!(command::wait(daemon, Duration::from_secs(60)), Ok(Some(_))) {
                let _killed = daemon.kill();
            }
        } else {
            let _removed = command::output(&mut self.command(&["rm", "--all", "--force"]), LIMIT);
            if !geteuid().is_root() {
                // The files belong to users that only podman can become.
                let folder = self.folder.display().to_string();
                let _removed = command::output(&mut self.command(&["unshare", "rm", "-rf", &folder]), LIMIT);
            }
        }
        let _removed = fs::remove_dir_all(&self.folder);
    }
}

fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// Prints why a test is skipped. Unlike `eprintln!`, this is not captured by the test harness.
fn print_skipped(reason: &str) {
    writeln!(std::io::stderr(), "skipped: {reason}").expect("standard error is open");
}

/// This machine's platform, as container images call it.
fn platform() -> &'static str {
    if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" }
}

#[test]
fn images_of_podman_run_and_have_the_names_of_the_manifests() {
    let _lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    match Engine::podman() {
        Ok(engine) => check(&engine),
        Err(reason) => print_skipped(&reason),
    }
}

#[test]
fn images_of_docker_run_and_have_the_names_of_the_manifests() {
    let _lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    match Engine::docker() {
        Ok(engine) => check(&engine),
        Err(reason) => print_skipped(&reason),
    }
}

fn check(engine: &Engine) {
    let printed = engine.build(&[]);
    let images = NAMES.map(|name| format!("{PREFIX}/{name}:{TAG}"));
    for (name, image) in NAMES.iter().zip(&images) {
        assert!(printed.lines().any(|line| line.starts_with(image) && line.contains(platform())), "{printed}");
        check_image(engine, name, image);
    }
    check_archive(engine, &images[..2]);
    check_model(engine);
    check_that_equal_files_make_equal_layers(engine, &images[0]);
    check_that_strangers_are_not_asked(engine);
}

fn check_image(engine: &Engine, name: &str, image: &str) {
    let inspect = |template: &str| engine.output(&["image", "inspect", "--format", template, image]);
    assert_eq!(inspect("{{.Os}}/{{.Architecture}}"), platform(), "{image}");
    assert_eq!(inspect("{{.Config.User}}"), "65532:65532", "{image}");
    assert_eq!(inspect("{{index .Config.Labels \"org.opencontainers.image.version\"}}"), TAG, "{image}");
    // The conditions of the manifests: no root, a read-only file system, and no privileges.
    let run = ["run", "--rm", "--network=none", "--read-only", "--cap-drop=ALL", image, "--version"];
    assert_eq!(engine.output(&run), format!("{name} {TAG}"));
}

/// Clusters take the names of images from an archive: `kind load image-archive`, `minikube image load`.
fn check_archive(engine: &Engine, images: &[String]) {
    let archive = engine.folder.join("images.tar");
    let mut save = engine.command(&["save", "--output"]);
    save.arg(&archive);
    if engine.name == "podman" {
        save.arg("--multi-image-archive");
    }
    assert!(command::status(save.args(images), LIMIT).expect("the engine runs").success());
    let mut tar = Command::new("tar");
    tar.arg("-xOf").arg(&archive).arg("manifest.json");
    let manifest = command::output(&mut tar, LIMIT).expect("tar runs").stdout;
    let manifest: Value = serde_json::from_slice(&manifest).expect("the archive has a list of images");
    let tags = manifest.as_array().expect("a list").iter().map(|image| image["RepoTags"][0].as_str().expect("a name"));
    let mut tags: Vec<_> = tags.collect();
    tags.sort_unstable();
    let mut expected: Vec<_> = images.iter().map(String::as_str).collect();
    expected.sort_unstable();
    assert_eq!(tags, expected);
    fs::remove_file(archive).expect("removable");
}

/// Builds an image with a model whose files only their owner may read, and has it classify a picture.
fn check_model(engine: &Engine) {
    let model = engine.folder.join("model");
    fs::create_dir_all(&model).expect("writable");
    let weights = model.join("model.safetensors");
    fs::copy(paths::root().join("replica/models/shapes.safetensors"), &weights).expect("the model is there");
    fs::set_permissions(&weights, Permissions::from_mode(0o600)).expect("own file");
    fs::set_permissions(&model, Permissions::from_mode(0o700)).expect("own folder");

    let image = "registry.invalid/team/replica-shapes:1";
    let mut build = engine.command(&["build", "--tag", image, "--file"]);
    build.arg(paths::root().join("k8s/images/Dockerfile.model")).arg(&model).stdout(Stdio::null());
    assert!(command::status(&mut build, LIMIT).expect("the engine runs").success());

    let run = ["run", "--rm", "--interactive", "--network=host", "--read-only", "--cap-drop=ALL", image];
    let mut replica = engine.command(&run);
    replica.args(["--listen=127.0.0.1:0", "--drain-delay=0s", "--exit-with-parent"]);
    let replica = ServiceProcess::spawn("replica", replica, &engine.folder).expect("the replica listens");
    let answer = post(&format!("http://{}/predict", replica.address), &striped_square(&engine.folder));
    let log = || fs::read_to_string(engine.folder.join("replica.log")).unwrap_or_default();
    assert_eq!(answer["prediction"]["label"], "striped square", "{answer}\n{}", log());
    assert!(log().contains("directory=/model"), "{}", log());
}

/// The answer to a picture. A replica that still loads its model answers when it has loaded it.
fn post(url: &str, picture: &[u8]) -> Value {
    let mut answer = http::agent().post(url).content_type("image/jpeg").send(picture).expect("the replica answers");
    let text = answer.body_mut().read_to_string().expect("the answer is text");
    serde_json::from_str(&text).expect("the answer is JSON")
}

/// Draws eight pictures in `folder` with loadgen. Returns the last one, which shows a striped square.
fn striped_square(folder: &Path) -> Vec<u8> {
    let folder = folder.join("pictures");
    let mut draw = Command::new(paths::program("loadgen"));
    draw.arg("pictures").arg(&folder).args(["--count=8", "--seed=5"]);
    assert!(command::status(&mut draw, LIMIT).expect("loadgen runs").success());
    fs::read(folder.join("00007.jpg")).expect("loadgen has drawn eight pictures")
}

fn check_that_equal_files_make_equal_layers(engine: &Engine, image: &str) {
    let layers = || engine.output(&["image", "inspect", "--format", "{{.RootFS.Layers}}", image]);
    let first = layers();
    engine.build(&["--only", "dispatcher", "--", "--no-cache"]);
    assert_eq!(layers(), first);
}

/// The name of an image that is missing leads to no registry.
fn check_that_strangers_are_not_asked(engine: &Engine) {
    let image = format!("{PREFIX}/dispatcher:absent");
    let output = command::output(&mut engine.command(&["pull", &image]), LIMIT).expect("the engine runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{image} was fetched");
    assert!(errors.contains(&format!("https://{PREFIX}/")) && !errors.contains("docker.io"), "{errors}");
}

#[test]
fn the_linter_of_dockerfiles_finds_nothing() {
    if !HADOLINT.is_made() {
        return print_skipped("hadolint is not installed; run cargo xtask setup");
    }
    let lint = |file: &Path| {
        let mut hadolint = Command::new(paths::tool(HADOLINT.name).join("bin/hadolint"));
        let output = command::output(hadolint.arg("--no-color").arg(file), LIMIT).expect("hadolint runs");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    };
    for file in ["Dockerfile", "Dockerfile.model"] {
        assert_eq!(lint(&paths::root().join("k8s/images").join(file)), (true, String::new()), "{file}");
    }
    // The linter notices a stage that does not exist.
    let wrong = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::write(wrong.path(), "FROM scratch AS a\nCOPY --from=b /c /\nUSER root\n").expect("writable");
    assert!(!lint(wrong.path()).0);
}

#[test]
fn a_folder_without_programs_is_an_error_that_names_the_command() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // A program that takes the place of podman: this error comes before anything is built. A script that this process
    // writes could not be started ("text file busy") while a process that another test starts still has it open.
    symlink("/bin/true", folder.path().join("podman")).expect("writable");
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap_or_default());
    let mut xtask = Command::new(env!("CARGO_BIN_EXE_xtask"));
    xtask.args(["images", "--engine=podman", "--only=scaler", "--programs=/no/such/folder"]).env("PATH", path);
    let output = command::output(&mut xtask, LIMIT).expect("xtask runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{error}");
    assert!(error.contains("/no/such/folder/scaler") && error.contains("cargo build --release"), "{error}");
}
