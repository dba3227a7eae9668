//! Tests the node on a real control plane: volumes, environment variables and init containers. It needs root; without a
//! control plane it is skipped.
//!
//! Most pods run a shell that has only its builtins, and print what they find.

use anyhow::{Context, Result, ensure};
use cluster::cgroup::OwnControlGroup;
use cluster::control_plane::ControlPlane;
use cluster::images::ImageStore;
use cluster::kubectl::Kubectl;
use cluster::local::Cores;
use cluster::network::{IpFamilies, Network};
use cluster::node::{Node, NodeConfig};
use cluster::paths::root;
use cluster::prerequisites::{self, Prerequisites};
use cluster::wait::wait_for;
use harness::paths;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::{Api, Client};
use procfs::process::all_processes;
use serde_json::{Value, json};
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time in which a pod must get into an expected state. A container that dies twice waits for 10 s.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The namespace of the pods.
const NAMESPACE: &str = "default";

/// The folder in which programs look for the token of their pod.
const TOKEN_FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Debian's Prometheus. Its part of the test is skipped if it is not installed.
const PROMETHEUS: &str = "/usr/bin/prometheus";

/// A cluster without Roundhouse. Its fields are in the order in which they must be dropped.
struct TestCluster {
    node: Node,
    _control_plane: ControlPlane,
    client: Client,
    kubectl: Kubectl,
    folder: tempfile::TempDir,
    _group: Option<OwnControlGroup>,
}

impl TestCluster {
    /// Starts a cluster; `None` if this machine has no control plane.
    async fn start() -> Result<Option<Self>> {
        let binaries = match prerequisites::find()? {
            Prerequisites::Met { binaries } => binaries,
            Prerequisites::Missing(missing) => {
                // Unlike `eprintln!`, this is not captured by the test harness.
                writeln!(std::io::stderr(), "skipped: {}", missing.join("; "))?;
                return Ok(None);
            }
        };
        let group = OwnControlGroup::enter()?;
        let network = Network::enter(IpFamilies::default())?;
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name);
        let control_plane = ControlPlane::start(binaries, path("control-plane"), network.families).await?;
        let client = control_plane.client().await?;
        let images = ImageStore::new(path("images"));
        images.gather("shell", &fs::canonicalize("/bin/sh")?)?;
        images.gather("dispatcher", &paths::program("dispatcher"))?;
        let cores = Cores { count: 8.0, share: 0.5 };
        let config = NodeConfig { name: "node".into(), cores, images, folder: path("pods") };
        let node = Node::start(config, client.clone(), network).await?;
        let kubectl = Kubectl::new(control_plane.kubeconfig_path(), None, NAMESPACE);
        Ok(Some(Self { node, _control_plane: control_plane, client, kubectl, folder, _group: group }))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Applies objects. Tries again while the namespace has no ServiceAccount, without which pods are refused.
    async fn apply(&self, objects: &[Value]) -> Result<()> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
        wait_for("the ServiceAccount default", TIMEOUT, async || {
            match self.kubectl.run_with_input(&["apply", "-f", "-"], &list).await {
                Err(error) if error.to_string().contains("serviceaccount") => Ok(None),
                applied => applied.map(Some),
            }
        })
        .await?;
        Ok(())
    }

    /// Waits until the pod `name` fulfils `condition`, and returns it.
    async fn wait(&self, name: &str, what: &str, condition: impl Fn(&Pod) -> bool) -> Result<Pod> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), NAMESPACE);
        let what = format!("the pod {name}: {what}");
        let found = wait_for(&what, TIMEOUT, async || Ok(pods.get_opt(name).await?.filter(&condition)));
        match found.await {
            Ok(pod) => Ok(pod),
            Err(error) => {
                let pod = self.kubectl.run(&["get", "pod", name, "-o", "jsonpath={.status}"]).await?;
                Err(error.context(format!("its status is {pod}\nits log is:\n{}", self.log(name))))
            }
        }
    }

    /// Deletes a pod. Fails if that takes longer than ten seconds.
    async fn delete(&self, name: &str) -> Result<()> {
        self.kubectl.run(&["delete", "pod", name, "--timeout=10s"]).await.map(drop)
    }

    fn log(&self, pod: &str) -> String {
        fs::read_to_string(self.node.log_folder().join(format!("{pod}.log"))).unwrap_or_default()
    }
}

fn object(kind: &str, name: &str, fields: Value) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
    object.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
    object
}

/// A container that runs `script`, with further fields.
fn shell(name: &str, script: &str, fields: Value) -> Value {
    let mut container = json!({"name": name, "image": "registry.example/shell:1", "args": ["-c", script]});
    container.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
    container
}

fn init_status(pod: &Pod, index: usize) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.init_container_statuses.as_ref()?.get(index)
}

fn main_status(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()
}

/// The reason and the message for which a container waits.
fn waits(status: Option<&ContainerStatus>) -> Option<(String, String)> {
    let waiting = status?.state.as_ref()?.waiting.clone()?;
    Some((waiting.reason.unwrap_or_default(), waiting.message.unwrap_or_default()))
}

fn condition(pod: &Pod, kind: &str) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    Some(conditions.iter().find(|condition| condition.type_ == kind)?.status.clone())
}

fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").as_deref() == Some("True")
}

/// The root folder of the process with the argument `argument`, as the process sees it.
fn process_root(argument: &str) -> Result<PathBuf> {
    let mut processes = all_processes()?.flatten();
    let is_container =
        |arguments: &[String]| arguments.iter().any(|other| other == argument) && arguments[0].starts_with("/usr/bin/");
    let process = processes.find(|process| process.cmdline().is_ok_and(|arguments| is_container(&arguments)));
    Ok(PathBuf::from(format!("/proc/{}/root", process.context("the container has no process")?.pid())))
}

#[tokio::test]
async fn pods_have_the_volumes_variables_and_init_containers_of_their_specification() -> Result<()> {
    let Some(cluster) = TestCluster::start().await? else { return Ok(()) };
    let folder = cluster.path("models");
    fs::create_dir(&folder)?;
    fs::write(folder.join("weights"), "17 weights\n")?;
    // Every user could write to the folder, but for the read-only mount.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))?;
    cluster
        .apply(&[
            object("ConfigMap", "settings", json!({"data": {"greeting": "hello", "farewell": "bye", "1bad": "x"}})),
            object("Secret", "secrets", json!({"stringData": {"password": "s3cret", "greeting": "psst"}})),
            object(
                "PersistentVolume",
                "models",
                json!({"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadOnlyMany"],
                    "hostPath": {"path": folder}}}),
            ),
            object(
                "PersistentVolumeClaim",
                "models",
                json!({"spec": {"storageClassName": "", "accessModes": ["ReadOnlyMany"], "volumeName": "models",
                    "resources": {"requests": {"storage": "1Gi"}}}}),
            ),
        ])
        .await?;
    check_volumes_and_variables(&cluster).await.context("volumes and variables")?;
    check_running_pod(&cluster).await.context("a running pod")?;
    check_missing_objects(&cluster).await.context("missing objects")?;
    check_failing_init_container(&cluster).await.context("a failing init container")?;
    check_deletion_of_init_container(&cluster).await.context("deletion while an init container runs")?;
    check_links(&cluster).await.context("links that lead out of a volume")?;
    check_images(&cluster).await.context("images that are added later")?;
    check_prometheus(&cluster).await.context("Prometheus of k8s/monitoring")?;
    check_removal(&cluster).await.context("the end of all pods")
}

/// Runs a pod whose containers print what they find in their volumes and variables.
async fn check_volumes_and_variables(cluster: &TestCluster) -> Result<()> {
    let first = shell(
        "first",
        r#"
        [ -e /data/tried ] || { echo "first fails once"; : > /data/tried; exit 3; }
        read -r weights < /model/weights
        read -r password < /secrets/password
        echo "first: $weights, $password, $PASSWORD"
        { echo x > /model/new; } 2> /dev/null || echo "the model is read-only"
        echo "$weights" > /data/made
        "#,
        json!({
            "env": [{"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "secrets", "key": "password"}}}],
            "volumeMounts": [{"name": "work", "mountPath": "/data"}, {"name": "secrets", "mountPath": "/secrets"},
                {"name": "models", "mountPath": "/model", "readOnly": true}]}),
    );
    let second = shell(
        "second",
        r#"echo deep > /here/file; echo "second: $KUBERNETES_SERVICE_HOST $PATH""#,
        json!({
            "env": [{"name": "PATH", "value": "/nowhere"}],
            "volumeMounts": [{"name": "work", "mountPath": "/here", "subPath": "a/b"}]}),
    );
    let main = shell(
        "main",
        r#"
        read -r made < /data/made
        read -r deep < /data/a/b/file
        read -r greeting < /config/greeting
        read -r farewell < /config/folder/bye
        read -r one < /one
        read -r token < /var/run/secrets/kubernetes.io/serviceaccount/token
        read -r namespace < /var/run/secrets/kubernetes.io/serviceaccount/namespace
        echo "main: $made, $deep, $greeting, $farewell, $one, token of ${#token} in $namespace"
        echo "variables: $C_greeting, $C_farewell, ${LATE-unset}, $P"
        [ -e /config/farewell ] || echo "only the items of the ConfigMap are files"
        { echo x > /config/greeting; } 2> /dev/null || echo "the ConfigMap is read-only"
        { echo x > /data/new; } 2> /dev/null || echo "the folder is read-only here"
        if echo x > /usr/bin/new; then echo "the root folder is writable"; fi
        "#,
        json!({
            "securityContext": {"runAsUser": 0, "runAsGroup": 0},
            "envFrom": [
                {"prefix": "C_", "configMapRef": {"name": "settings"}},
                {"prefix": "C_", "secretRef": {"name": "secrets"}},
                {"configMapRef": {"name": "missing", "optional": true}}],
            "env": [
                {"name": "P", "value": "$(C_farewell)+$(C_password)"},
                {"name": "LATE", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "no", "optional": true}}}],
            "volumeMounts": [
                {"name": "work", "mountPath": "/data", "readOnly": true},
                {"name": "config", "mountPath": "/config"},
                {"name": "config", "mountPath": "/one", "subPath": "greeting"}]}),
    );
    let items = json!([{"key": "greeting", "path": "greeting"}, {"key": "farewell", "path": "folder/bye"}]);
    cluster
        .apply(&[object(
            "Pod",
            "shell",
            json!({"spec": {
                "securityContext": {"runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 2000},
                "initContainers": [first, second],
                "containers": [main],
                "volumes": [
                    {"name": "work", "emptyDir": {}},
                    {"name": "secrets", "secret": {"secretName": "secrets", "defaultMode": 0o400}},
                    {"name": "config", "configMap": {"name": "settings", "items": items}},
                    {"name": "models", "persistentVolumeClaim": {"claimName": "models"}}]}}),
        )])
        .await?;
    let ran = |pod: &Pod| main_status(pod).is_some_and(|status| status.restart_count > 0);
    let pod = cluster.wait("shell", "its container has run", ran).await?;
    let log = cluster.log("shell");
    let api_server = "10.96.0.1";
    for line in [
        "first fails once".to_owned(),
        "first: 17 weights, s3cret, s3cret".into(),
        "the model is read-only".into(),
        format!("second: {api_server} /nowhere"),
        "variables: psst, bye, unset, bye+s3cret".into(),
        "only the items of the ConfigMap are files".into(),
        "the ConfigMap is read-only".into(),
        "the folder is read-only here".into(),
        "the root folder is writable".into(),
    ] {
        ensure!(log.lines().any(|other| other == line), "the log has no line {line:?}:\n{log}");
    }
    let main = log.lines().find_map(|line| line.strip_prefix("main: 17 weights, deep, hello, bye, hello, token of "));
    let token = main.and_then(|rest| rest.strip_suffix(" in default")?.parse::<u32>().ok());
    ensure!(token.is_some_and(|length| length > 100), "the log has no line with all files:\n{log}");
    ensure!(log.matches("first: ").count() == 1, "an init container must run once after its success:\n{log}");
    ensure!(!cluster.path("images/shell/usr/bin/new").exists(), "a container must not write to its image");
    let first = init_status(&pod, 0).context("the pod has no init containers")?;
    let end = first.state.as_ref().and_then(|state| state.terminated.as_ref()).context("it has not ended")?;
    ensure!((first.restart_count, first.ready, end.exit_code) == (1, true, 0), "{first:?}");
    ensure!(condition(&pod, "Initialized").as_deref() == Some("True"), "{pod:?}");
    cluster.delete("shell").await
}

/// Runs a dispatcher whose list of replicas is made by an init container. Changes its ConfigMap while it runs.
async fn check_running_pod(cluster: &TestCluster) -> Result<()> {
    let init = shell(
        "replicas",
        "echo 10.9.8.7:6000 > /data/replicas",
        json!({"volumeMounts": [{"name": "work", "mountPath": "/data"}]}),
    );
    let dispatcher = json!({
        "name": "dispatcher", "image": "roundhouse.invalid/dispatcher:0.1.0",
        "args": ["--listen=0.0.0.0:5052", "--replicas=file:/data/replicas"],
        "ports": [{"name": "http", "containerPort": 5052}],
        "livenessProbe": {"httpGet": {"path": "/livez", "port": "http"}},
        "readinessProbe": {"httpGet": {"path": "/livez", "port": "http"}, "periodSeconds": 1},
        "securityContext": {"readOnlyRootFilesystem": true},
        "resources": {"limits": {"memory": "1Gi"}},
        "volumeMounts": [
            {"name": "work", "mountPath": "/data", "readOnly": true}, {"name": "config", "mountPath": "/config"},
            {"name": "config", "mountPath": "/etc/greeting", "subPath": "greeting"},
            {"name": "kube-api-access", "mountPath": TOKEN_FOLDER, "readOnly": true}]});
    // API servers from 1.22 add this volume to pods. The one of version 1.20 would add a Secret instead.
    let token = json!({"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1",
            "fieldPath": "metadata.namespace"}}]}}]});
    cluster
        .apply(&[object(
            "Pod",
            "dispatcher",
            json!({"spec": {
                "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false,
                "securityContext": {"runAsUser": 65532, "runAsGroup": 65532, "runAsNonRoot": true},
                "initContainers": [init], "containers": [dispatcher],
                "volumes": [
                    {"name": "work", "emptyDir": {}}, {"name": "config", "configMap": {"name": "settings"}},
                    {"name": "kube-api-access", "projected": token}]}}),
        )])
        .await?;
    let pod = cluster.wait("dispatcher", "it is ready", is_ready).await?;
    let address = pod.status.and_then(|status| status.pod_ip).context("the pod has no address")?;
    let (_, metrics) = service::fetch::get(&format!("{address}:5052"), "/status", Duration::from_secs(5)).await?;
    let metrics = String::from_utf8_lossy(&metrics).into_owned();
    ensure!(metrics.contains("10.9.8.7:6000"), "the dispatcher does not know the replica: {metrics}");
    let root = process_root("--replicas=file:/data/replicas")?;
    let read = |path: &str| fs::read_to_string(root.join(path)).with_context(|| format!("read {path}"));
    ensure!(read("config/greeting")? == "hello" && read("etc/greeting")? == "hello", "the ConfigMap is no file");
    ensure!(!root.join("root").exists() && !root.join("home").exists(), "the container sees this machine's files");
    let written = fs::write(root.join("new"), "").map_err(|error| error.kind());
    ensure!(written == Err(ErrorKind::ReadOnlyFilesystem), "writing to the root folder gave {written:?}");
    let credentials = ["token", "ca.crt", "namespace"].map(|name| read(&format!("{TOKEN_FOLDER}/{name}")[1..]));
    let [token, certificate, namespace] = credentials;
    ensure!(certificate?.contains("BEGIN CERTIFICATE") && namespace? == NAMESPACE, "the pod has no credentials");
    // Every authenticated user may do this.
    let action = ["auth", "can-i", "create", "selfsubjectaccessreviews", &format!("--token={}", token?)];
    let answer = cluster.kubectl.run(&action).await.context("use the token of the pod")?;
    ensure!(answer.trim() == "yes", "the token of the pod gives no access: {answer}");
    let settings = object("ConfigMap", "settings", json!({"data": {"greeting": "good day", "farewell": "bye"}}));
    cluster.apply(&[settings]).await?;
    wait_for("the changed ConfigMap in the volume", TIMEOUT, async || {
        Ok((read("config/greeting")? == "good day").then_some(()))
    })
    .await?;
    ensure!(!root.join("config/1bad").exists(), "the removed key is still a file");
    ensure!(read("etc/greeting")? == "hello", "a mounted part of a volume must not change");
    Ok(())
}

/// Runs pods whose objects are missing at first.
async fn check_missing_objects(cluster: &TestCluster) -> Result<()> {
    let variable = json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "late", "key": "a"}}}]});
    let mount = json!({"volumeMounts": [{"name": "late", "mountPath": "/late"}]});
    let volume = json!([{"name": "late", "configMap": {"name": "late"}}]);
    cluster
        .apply(&[
            object("Pod", "variable", json!({"spec": {"containers": [shell("main", "echo \"A is $A\"", variable)]}})),
            object(
                "Pod",
                "volume",
                json!({"spec": {"containers": [shell("main", "read -r a < /late/a; echo \"a is $a\"", mount)],
                    "volumes": volume}}),
            ),
        ])
        .await?;
    for (pod, reason, message) in [
        ("variable", "CreateContainerConfigError", "env A: Secret late does not exist"),
        ("volume", "ContainerCreating", "volume late: ConfigMap late does not exist"),
    ] {
        let expected = Some((reason.to_owned(), message.to_owned()));
        let pod = cluster.wait(pod, message, |pod| waits(main_status(pod)) == expected).await?;
        let phase = pod.status.and_then(|status| status.phase);
        ensure!(phase.as_deref() == Some("Pending"), "the phase is {phase:?}");
    }
    cluster
        .apply(&[
            object("Secret", "late", json!({"stringData": {"a": "1"}})),
            object("ConfigMap", "late", json!({"data": {"a": "2"}})),
        ])
        .await?;
    for (pod, line) in [("variable", "A is 1\n"), ("volume", "a is 2\n")] {
        wait_for(line, TIMEOUT, async || Ok(cluster.log(pod).contains(line).then_some(()))).await?;
        cluster.delete(pod).await?;
    }
    Ok(())
}

/// Runs a pod whose init container always fails.
async fn check_failing_init_container(cluster: &TestCluster) -> Result<()> {
    let spec = json!({"initContainers": [shell("fails", "exit 4", json!({}))],
        "containers": [shell("main", "echo main", json!({}))]});
    cluster.apply(&[object("Pod", "failing", json!({ "spec": spec }))]).await?;
    let is_backing_off = |pod: &Pod| {
        let init = init_status(pod, 0);
        init.is_some_and(|status| status.restart_count >= 2)
            && waits(init).is_some_and(|(reason, _)| reason == "CrashLoopBackOff")
    };
    let pod = cluster.wait("failing", "its init container is restarted", is_backing_off).await?;
    let last = init_status(&pod, 0).and_then(|status| status.last_state.as_ref()?.terminated.as_ref());
    ensure!(last.is_some_and(|end| end.exit_code == 4), "{last:?}");
    ensure!(waits(main_status(&pod)).is_some_and(|(reason, _)| reason == "PodInitializing"), "{pod:?}");
    ensure!(condition(&pod, "Initialized").as_deref() == Some("False"), "{pod:?}");
    ensure!(pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Pending"), "{pod:?}");
    ensure!(!cluster.log("failing").contains("main"), "the container must not run");
    cluster.delete("failing").await
}

/// Deletes a pod while its init container, a dispatcher, runs.
async fn check_deletion_of_init_container(cluster: &TestCluster) -> Result<()> {
    let init = json!({"name": "init", "image": "roundhouse.invalid/dispatcher:0.1.0", "args": ["--replicas=static:10.9.8.6:6000"]});
    let spec = json!({"terminationGracePeriodSeconds": 2, "initContainers": [init],
        "containers": [shell("main", "echo main", json!({}))]});
    cluster.apply(&[object("Pod", "initializing", json!({ "spec": spec }))]).await?;
    let runs = |pod: &Pod| {
        init_status(pod, 0).is_some_and(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()))
    };
    let pod = cluster.wait("initializing", "its init container runs", runs).await?;
    ensure!(pod.status.and_then(|status| status.pod_ip).is_some(), "the pod has no network before its containers");
    cluster.delete("initializing").await?;
    let root = process_root("--replicas=static:10.9.8.6:6000");
    ensure!(root.is_err(), "the init container still runs");
    ensure!(!cluster.log("initializing").contains("main"), "the container must not run");
    Ok(())
}

/// Runs pods that would mount a volume at a link, or a file behind a link, which lead out of the container.
async fn check_links(cluster: &TestCluster) -> Result<()> {
    let target = cluster.path("target");
    fs::create_dir(&target)?;
    fs::write(target.join("file"), "secret")?;
    std::os::unix::fs::symlink(&target, cluster.path("models/link"))?;
    let model = json!({"name": "models", "mountPath": "/model"});
    let volumes = json!([{"name": "models", "persistentVolumeClaim": {"claimName": "models"}},
        {"name": "work", "emptyDir": {}}]);
    let pod = |name: &str, mounts: Value| {
        let container = shell("main", "echo started", json!({"volumeMounts": mounts}));
        object("Pod", name, json!({"spec": {"containers": [container], "volumes": volumes}}))
    };
    let inner = json!({"name": "work", "mountPath": "/model/link/new"});
    let part = json!({"name": "models", "mountPath": "/a", "subPath": "link/file"});
    cluster.apply(&[pod("target", json!([model, inner])), pod("source", json!([part]))]).await?;
    let refused = "cannot mount a volume at /model/link/new: a part of the path is a symbolic link\n";
    wait_for("the refusal of a path with a link", TIMEOUT, async || {
        Ok(cluster.log("target").contains(refused).then_some(()))
    })
    .await?;
    let fails = |pod: &Pod| {
        waits(main_status(pod)).is_some_and(|(reason, message)| {
            reason == "CreateContainerError" && message.starts_with("volume models: subPath link/file")
        })
    };
    cluster.wait("source", "its container is refused", fails).await?;
    ensure!(!target.join("new").exists(), "a folder was made outside the volume");
    for pod in ["target", "source"] {
        ensure!(!cluster.log(pod).contains("started"), "the container of {pod} must not start");
        cluster.delete(pod).await?;
    }
    fs::remove_file(cluster.path("models/link"))?;
    Ok(())
}

/// Runs a pod before its container image exists. The image is then made of another one, with a model in it.
async fn check_images(cluster: &TestCluster) -> Result<()> {
    let mut container = shell("main", "read -r a < /model/weights; echo \"the image has $a\"", json!({}));
    container["image"] = "registry.example/model@sha256:00".into();
    cluster.apply(&[object("Pod", "model", json!({"spec": {"containers": [container]}}))]).await?;
    let message = "this node has no container image \"model\", only dispatcher, shell";
    let is_missing = |pod: &Pod| waits(main_status(pod)).is_some_and(|(_, found)| found == message);
    cluster.wait("model", message, is_missing).await?;
    cluster.node.images().extend("model", "shell", &cluster.path("models"), "/model")?;
    let line = "the image has 17 weights\n";
    wait_for(line, TIMEOUT, async || Ok(cluster.log("model").contains(line).then_some(()))).await?;
    cluster.delete("model").await
}

/// Runs the Prometheus of k8s/monitoring, which must scrape the dispatcher. Debian's Prometheus is built without the
/// discovery of pods, so it gets the address of the pod.
async fn check_prometheus(cluster: &TestCluster) -> Result<()> {
    if !Path::new(PROMETHEUS).is_file() {
        writeln!(std::io::stderr(), "skipped in part: {PROMETHEUS} is not installed")?;
        return Ok(());
    }
    cluster.node.images().gather("prometheus", Path::new(PROMETHEUS))?;
    let dispatcher = cluster.wait("dispatcher", "it is ready", is_ready).await?;
    let dispatcher = dispatcher.status.and_then(|status| status.pod_ip).context("the dispatcher has no address")?;
    let targets = json!([{"targets": [format!("{dispatcher}:5052")]}]);
    let job = json!({"job_name": "roundhouse", "scrape_interval": "1s", "static_configs": targets});
    let configuration = json!({"rule_files": ["rules.yml"], "scrape_configs": [job]});
    let folder = root().join("k8s/monitoring").display().to_string();
    let objects = cluster.kubectl.run(&["kustomize", &folder]).await?;
    let objects: Vec<Value> = serde_saphyr::from_multiple(&objects)?;
    let objects = objects.into_iter().filter(|object| {
        let label = &object["metadata"]["labels"]["app.kubernetes.io/component"];
        let kind = object["kind"].as_str().unwrap_or_default();
        label == "prometheus" && ["ConfigMap", "Deployment", "ServiceAccount"].contains(&kind)
    });
    let objects = objects.map(|mut object| {
        if object["kind"] == "ConfigMap" {
            object["data"]["prometheus.yml"] = configuration.to_string().into();
        }
        object
    });
    cluster.apply(&objects.collect::<Vec<Value>>()).await?;
    let label = "app.kubernetes.io/component=prometheus";
    let name = wait_for("the pod of Prometheus", TIMEOUT, async || {
        let name = cluster.kubectl.run(&["get", "pods", "-l", label, "-o", "name"]).await?;
        Ok(name.trim().strip_prefix("pod/").map(str::to_owned))
    })
    .await?;
    let pod = cluster.wait(&name, "it is ready", is_ready).await?;
    let address = format!("{}:9090", pod.status.and_then(|status| status.pod_ip).context("it has no address")?);
    wait_for("Prometheus to scrape the dispatcher", TIMEOUT, async || {
        let (_, answer) = service::fetch::get(&address, "/api/v1/query?query=up", Duration::from_secs(5)).await?;
        let answer: Value = serde_json::from_slice(&answer)?;
        Ok((answer["data"]["result"][0]["value"][1] == "1").then_some(()))
    })
    .await
}

/// Deletes all pods. Only their logs may stay.
async fn check_removal(cluster: &TestCluster) -> Result<()> {
    let folders = || -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(cluster.node.log_folder())?.collect::<std::io::Result<Vec<_>>>()?;
        Ok(entries.iter().map(std::fs::DirEntry::path).filter(|path| path.is_dir()).collect())
    };
    ensure!(!folders()?.is_empty(), "running pods must have folders");
    cluster.kubectl.run(&["delete", "deployments,pods", "--all", "--timeout=60s"]).await?;
    wait_for("the removal of the folders of all pods", TIMEOUT, async || Ok(folders()?.is_empty().then_some(()))).await
}
