//! Tests the manifests that kubectl makes of the kustomizations. They must fit every version of Kubernetes, keep to the
//! restricted pod security standard, and be consistent with each other.

use cluster::kustomization::{IMAGE_PREFIX, Kustomization};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The minor version of the oldest Kubernetes whose schemas the manifests must fit.
const OLDEST_MINOR: u32 = 28;

/// The minor version of the oldest Kubernetes whose schemas have images as volumes.
const IMAGE_VOLUMES_MINOR: u32 = 31;

/// A manifest of a kustomization.
struct Manifest {
    /// The folder of the kustomization, relative to the root of the workspace.
    folder: String,
    /// The object of the manifest.
    object: Value,
}

impl Manifest {
    /// The folder, kind and name of the object, for messages.
    fn place(&self) -> String {
        let (kind, name) = (self.object["kind"].as_str(), self.object["metadata"]["name"].as_str());
        format!("{}: {} {}", self.folder, kind.unwrap_or("?"), name.unwrap_or("?"))
    }

    fn has_name(&self, name: &str) -> bool {
        self.object["metadata"]["name"] == name
    }
}

/// Prints why a test is skipped. Unlike `eprintln!`, this is not captured by the test harness.
fn print_skipped(reason: &str) {
    writeln!(std::io::stderr(), "skipped: {reason}").expect("standard error is open");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The folders of all kustomizations that are complete, unlike components.
fn kustomizations() -> Vec<PathBuf> {
    let k8s = root().join("k8s");
    let overlays = fs::read_dir(k8s.join("overlays")).expect("there are overlays").flatten();
    let folders = ["base", "monitoring", "namespace"].map(|name| k8s.join(name));
    let all: Vec<PathBuf> = folders.into_iter().chain(overlays.map(|overlay| overlay.path())).collect();
    assert!(all.iter().all(|folder| folder.join("kustomization.yaml").exists()), "{all:?}");
    all
}

/// The YAML that kubectl makes of the kustomization in a folder; `None` if kubectl is not installed.
fn build(folder: &Path) -> Option<String> {
    let output = match Command::new("kubectl").arg("kustomize").arg(folder).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            print_skipped("kubectl is not installed; on Debian and Ubuntu: apt-get install kubernetes-client");
            return None;
        }
        output => output.expect("kubectl runs"),
    };
    assert!(output.status.success(), "{}: {}", folder.display(), String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).expect("UTF-8"))
}

/// The YAML that kubectl makes of k8s/base with the component in a folder; `None` if kubectl is not installed.
fn build_with_component(component: &Path) -> Option<String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // kustomize refuses absolute paths, so links lead to the folders.
    for (name, to) in [("base", &root().join("k8s/base")), ("component", &component.to_owned())] {
        symlink(fs::canonicalize(to).expect("the folder exists"), folder.path().join(name)).expect("linked");
    }
    let kustomization = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
        "namespace": "roundhouse", "resources": ["base"], "components": ["component"],
    });
    fs::write(folder.path().join("kustomization.yaml"), kustomization.to_string()).expect("written");
    build(folder.path())
}

/// The folders below `folder` with a component, but for k8s/components/model/settings, which is a part of others.
fn components(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in fs::read_dir(folder).expect("the folder can be read").flatten().map(|entry| entry.path()) {
        if path.ends_with("model/settings") || !path.is_dir() {
            continue;
        }
        if path.join("kustomization.yaml").exists() { found.push(path) } else { found.extend(components(&path)) }
    }
    found
}

/// The manifests of all kustomizations, and of k8s/base with each component; `None` if kubectl is not installed.
fn all_manifests() -> Option<Vec<Manifest>> {
    let components = components(&root().join("k8s/components"));
    assert!(!components.is_empty());
    let with_component = components.into_iter().map(|path| (build_with_component(&path), path));
    let complete = kustomizations().into_iter().map(|path| (build(&path), path));
    let mut all = Vec::new();
    for (text, path) in complete.chain(with_component) {
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text?).expect("kubectl writes YAML");
        let folder = path.strip_prefix(root()).expect("below the root").display().to_string();
        all.extend(objects.into_iter().map(|object| Manifest { folder: folder.clone(), object }));
    }
    Some(all)
}

/// Whether an object is one of the Prometheus Operator, which the schemas of Kubernetes do not have.
fn is_of_operator(object: &Value) -> bool {
    object["apiVersion"] == "monitoring.coreos.com/v1"
}

/// Whether an object has pods with an image as a volume, which old schemas do not have.
fn has_image_volume(object: &Value) -> bool {
    let volumes = object["spec"]["template"]["spec"]["volumes"].as_array();
    volumes.is_some_and(|volumes| volumes.iter().any(|volume| !volume["image"].is_null()))
}

/// The manifests of a kind.
///
/// # Panics
/// If there is none.
fn of_kind<'a>(all: &'a [Manifest], kind: &str) -> Vec<&'a Manifest> {
    let found: Vec<_> = all.iter().filter(|manifest| manifest.object["kind"] == kind).collect();
    assert!(!found.is_empty(), "there is no {kind}");
    found
}

/// The program kubernetes-validate, which compares manifests with the schemas of Kubernetes.
struct Validator {
    /// The folder of the program, with the Python that runs it.
    tools: PathBuf,
}

impl Validator {
    /// Finds the program in target/tools. `None` if it is not installed there.
    fn find() -> Option<Self> {
        let tools = root().join("target/tools/kubernetes-validate/bin");
        tools.join("kubernetes-validate").exists().then_some(Self { tools })
    }

    /// The newest minor version of Kubernetes whose schemas the program has.
    fn newest_minor(&self) -> u32 {
        let print = "import kubernetes_validate; print(kubernetes_validate.latest_version())";
        let output = Command::new(self.tools.join("python")).args(["-c", print]).output().expect("python runs");
        let version = String::from_utf8(output.stdout).expect("UTF-8");
        version.split('.').nth(1).and_then(|minor| minor.parse().ok()).expect("a version such as 1.33.1")
    }

    /// Compares files with the schemas of Kubernetes 1.`minor`.
    ///
    /// # Errors
    /// If a file does not fit. The message is the output of the program.
    fn validate(&self, minor: u32, files: &[PathBuf]) -> Result<(), String> {
        let mut command = Command::new(self.tools.join("kubernetes-validate"));
        command.args(["--strict", "--quiet", "-k", &format!("1.{minor}")]).args(files);
        let output = command.output().expect("kubernetes-validate runs");
        let text = [output.stdout, output.stderr].concat();
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&text).into_owned()) }
    }
}

#[test]
fn manifests_fit_the_schemas_of_every_version() {
    let Some(validator) = Validator::find() else {
        let folder = "target/tools/kubernetes-validate";
        let install = format!("python3 -m venv {folder} && {folder}/bin/pip install kubernetes-validate");
        return print_skipped(&format!("kubernetes-validate is not installed; to install it: {install}"));
    };
    let newest = validator.newest_minor();
    assert!(newest > OLDEST_MINOR, "{newest}");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let Some(all) = all_manifests() else { return };
    let (mut files, mut with_image_volumes) = (Vec::new(), Vec::new());
    for (index, manifest) in all.iter().filter(|manifest| !is_of_operator(&manifest.object)).enumerate() {
        let file = folder.path().join(format!("{index}.yaml"));
        fs::write(&file, manifest.object.to_string()).expect("written");
        if has_image_volume(&manifest.object) { with_image_volumes.push(file) } else { files.push(file) }
    }
    assert!(!with_image_volumes.is_empty());
    for minor in OLDEST_MINOR..=newest {
        assert_eq!(validator.validate(minor, &files), Ok(()), "1.{minor}");
        let fits = validator.validate(minor, &with_image_volumes);
        assert_eq!(fits.is_ok(), minor >= IMAGE_VOLUMES_MINOR, "1.{minor}: {fits:?}");
    }
    // The program notices a manifest that does not fit.
    let wrong = folder.path().join("wrong.yaml");
    fs::write(&wrong, "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {prots: []}\n").expect("written");
    assert!(validator.validate(newest, &[wrong]).is_err());
}

/// The kinds of volumes that the restricted pod security standard permits. It permits `image` from Kubernetes 1.33 on.
const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// The fields by which a pod's specification violates the restricted pod security standard
/// (kubernetes.io/docs/concepts/security/pod-security-standards), or lets a container write to its root file system.
fn violations(spec: &Value) -> Vec<String> {
    let elements = |list: &str| spec[list].as_array().into_iter().flatten();
    let mut violations = Vec::new();
    for shared in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec[shared] == true {
            violations.push(shared.to_owned());
        }
    }
    for volume in elements("volumes") {
        let kinds = volume.as_object().expect("a volume").keys().filter(|key| *key != "name");
        violations.extend(kinds.filter(|kind| !VOLUMES.contains(&kind.as_str())).map(|kind| format!("volume {kind}")));
    }
    for container in elements("initContainers").chain(elements("containers")) {
        let own = container_violations(&spec["securityContext"], container);
        violations.extend(own.into_iter().map(|field| format!("{}: {field}", container["name"])));
    }
    violations
}

/// The fields by which a container violates the restricted pod security standard, or can write to its root file system.
/// `pod` is the security context of its pod.
fn container_violations(pod: &Value, container: &Value) -> Vec<&'static str> {
    let own = &container["securityContext"];
    // A value of the container replaces that of the pod.
    let effective = |field: &str| if own[field].is_null() { &pod[field] } else { &own[field] };
    let seccomp = &effective("seccompProfile")["type"];
    let mut ports = container["ports"].as_array().into_iter().flatten();
    let rules = [
        ("runAsNonRoot", effective("runAsNonRoot") == true),
        ("runAsUser", effective("runAsUser").as_u64().is_some_and(|user| user != 0)),
        ("seccompProfile", seccomp == "RuntimeDefault" || seccomp == "Localhost"),
        ("allowPrivilegeEscalation", own["allowPrivilegeEscalation"] == false),
        ("privileged", own["privileged"] != true),
        ("capabilities", own["capabilities"]["drop"] == json!(["ALL"]) && own["capabilities"]["add"].is_null()),
        ("readOnlyRootFilesystem", own["readOnlyRootFilesystem"] == true),
        ("hostPort", ports.all(|port| port["hostPort"].is_null())),
    ];
    rules.into_iter().filter(|(_, is_kept)| !is_kept).map(|(field, _)| field).collect()
}

#[test]
fn every_pod_is_restricted() {
    let Some(all) = all_manifests() else { return };
    for deployment in of_kind(&all, "Deployment") {
        let spec = &deployment.object["spec"]["template"]["spec"];
        assert_eq!(violations(spec), Vec::<String>::new(), "{}", deployment.place());
    }
    for namespace in of_kind(&all, "Namespace") {
        let level = &namespace.object["metadata"]["labels"]["pod-security.kubernetes.io/enforce"];
        assert_eq!(level, "restricted", "{}", namespace.place());
    }
}

#[test]
fn violations_are_found() {
    let good = || {
        json!({"securityContext": {"runAsNonRoot": true, "runAsUser": 1, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "a", "securityContext": {"allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}}}]})
    };
    assert_eq!(violations(&good()), Vec::<String>::new());
    for (pointer, value, expected) in [
        ("/securityContext/runAsNonRoot", json!(false), "runAsNonRoot"),
        ("/securityContext/runAsUser", json!(0), "runAsUser"),
        ("/securityContext/seccompProfile/type", json!("Unconfined"), "seccompProfile"),
        ("/containers/0/securityContext/allowPrivilegeEscalation", json!(null), "allowPrivilegeEscalation"),
        ("/containers/0/securityContext/capabilities/drop", json!(["NET_RAW"]), "capabilities"),
        ("/containers/0/securityContext/readOnlyRootFilesystem", json!(false), "readOnlyRootFilesystem"),
    ] {
        let mut spec = good();
        *spec.pointer_mut(pointer).expect("the field is there") = value;
        assert!(violations(&spec).iter().any(|violation| violation.contains(expected)), "{expected}");
    }
    for (field, value, expected) in [
        ("hostNetwork", json!(true), "hostNetwork"),
        ("volumes", json!([{"name": "a", "hostPath": {"path": "/"}}]), "volume hostPath"),
    ] {
        let mut spec = good();
        spec[field] = value;
        assert_eq!(violations(&spec), [expected]);
    }
}

#[test]
fn a_replica_requests_its_limits_and_the_number_of_replicas_is_not_fixed() {
    let Some(all) = all_manifests() else { return };
    for deployment in of_kind(&all, "Deployment").into_iter().filter(|manifest| manifest.has_name("replica")) {
        let (object, place) = (&deployment.object, deployment.place());
        let resources = &object["spec"]["template"]["spec"]["containers"][0]["resources"];
        assert_eq!(resources["requests"], resources["limits"], "{place}");
        // One core computes for itself, but several decode for a GPU.
        let cores = if uses_gpu(deployment) { "4" } else { "1" };
        assert_eq!(resources["requests"]["cpu"], cores, "{place}");
        assert!(object["spec"]["replicas"].is_null(), "{place}: applying it again would undo the scaler's decision");
    }
}

/// Whether each pod of a Deployment has a GPU.
fn uses_gpu(deployment: &Manifest) -> bool {
    let limits = &deployment.object["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"];
    !limits["nvidia.com/gpu"].is_null()
}

#[test]
fn a_replica_with_a_gpu_has_an_image_and_a_node_for_it_and_its_rollout_needs_no_other_gpu() {
    let Some(all) = all_manifests() else { return };
    let deployments = of_kind(&all, "Deployment");
    let with_gpu: Vec<_> = deployments.into_iter().filter(|deployment| uses_gpu(deployment)).collect();
    assert!(!with_gpu.is_empty());
    for deployment in with_gpu {
        let (spec, place) = (&deployment.object["spec"], deployment.place());
        let pod = &spec["template"]["spec"];
        let image = pod["containers"][0]["image"].as_str().expect("an image");
        assert!(image.contains("/replica-cuda:"), "{place}: {image} has no CUDA");
        let variables = pod["containers"][0]["env"].as_array().expect("variables");
        let value = |name: &str| &variables.iter().find(|variable| variable["name"] == name).expect(name)["value"];
        assert_eq!(value("ROUNDHOUSE_DEVICE"), "cuda", "{place}");
        let batch: u32 = value("ROUNDHOUSE_MAX_BATCH").as_str().expect("text").parse().expect("a number");
        assert!(batch > 1, "{place}: a GPU would compute one image at a time");
        let toleration = json!({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"});
        assert!(pod["tolerations"].as_array().is_some_and(|all| all.contains(&toleration)), "{place}");
        assert_eq!(spec["strategy"]["rollingUpdate"], json!({"maxSurge": 0, "maxUnavailable": 1}), "{place}");
    }
}

/// The folders of the kustomizations for clusters to which images are loaded.
const LOCAL: [&str; 4] = ["minikube", "kind", "monitoring", "hpa"];

#[test]
fn own_images_have_the_version_and_a_name_that_no_registry_can_have() {
    let Some(all) = all_manifests() else { return };
    let own = |deployment: &&Manifest| ["dispatcher", "replica", "scaler"].iter().any(|name| deployment.has_name(name));
    let deployments: Vec<_> = of_kind(&all, "Deployment").into_iter().filter(own).collect();
    for folder in ["k8s/base".to_owned()].into_iter().chain(LOCAL.map(|name| format!("k8s/overlays/{name}"))) {
        assert!(deployments.iter().any(|deployment| deployment.folder == folder), "{folder}");
    }
    for deployment in deployments {
        let (object, place) = (&deployment.object, deployment.place());
        let container = &object["spec"]["template"]["spec"]["containers"][0];
        let name = object["metadata"]["name"].as_str().expect("a name");
        let image = if uses_gpu(deployment) { "replica-cuda" } else { name };
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(container["image"], format!("{IMAGE_PREFIX}/{image}:{version}"), "{place}");
        // The domain `invalid` is reserved, so that no name below it has an address.
        assert!(IMAGE_PREFIX.split('/').next().is_some_and(|registry| registry.ends_with(".invalid")));
        let is_local = LOCAL.iter().any(|folder| deployment.folder == format!("k8s/overlays/{folder}"));
        let policy = if is_local { "Never" } else { "IfNotPresent" };
        assert_eq!(container["imagePullPolicy"], policy, "{place}");
        assert_eq!(object["metadata"]["labels"]["app.kubernetes.io/version"], version, "{place}");
    }
}

/// The seconds of a flag such as `--grace=15s`. `flag` is the text before the number, such as `--grace=`. `None` if the
/// container does not have the flag.
fn seconds(container: &Value, flag: &str) -> Option<u64> {
    let arguments = container["args"].as_array()?.iter().filter_map(Value::as_str);
    arguments.filter_map(|argument| argument.strip_prefix(flag)?.strip_suffix('s')?.parse().ok()).next()
}

#[test]
fn pods_are_not_killed_while_they_drain() {
    let Some(all) = all_manifests() else { return };
    for deployment in of_kind(&all, "Deployment") {
        let (object, place) = (&deployment.object, deployment.place());
        let spec = &object["spec"]["template"]["spec"];
        let container = &spec["containers"][0];
        let (Some(delay), Some(grace)) = (seconds(container, "--drain-delay="), seconds(container, "--grace=")) else {
            let must_drain = deployment.has_name("dispatcher") || deployment.has_name("replica");
            assert!(!must_drain, "{place} has no --drain-delay or no --grace");
            continue;
        };
        let period = spec["terminationGracePeriodSeconds"].as_u64().expect("the period is given");
        assert!(
            period > delay + grace,
            "{place}: terminationGracePeriodSeconds is {period}, not more than --drain-delay ({delay} s) and --grace \
             ({grace} s)"
        );
        // A rollout must not reduce the capacity, except where a new pod would wait for the GPU of an old one.
        if !uses_gpu(deployment) {
            assert_eq!(object["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"], 0, "{place}");
        }
    }
}

/// Whether `selector` selects the pods of a Deployment in `folder`.
fn selects_pods(all: &[Manifest], folder: &str, selector: &Value) -> bool {
    let selector = selector.as_object().expect("labels");
    let mut deployments = all.iter().filter(|other| other.folder == folder && other.object["kind"] == "Deployment");
    deployments.any(|deployment| {
        let labels = &deployment.object["spec"]["template"]["metadata"]["labels"];
        !selector.is_empty() && selector.iter().all(|(key, value)| &labels[key] == value)
    })
}

#[test]
fn selectors_select_pods() {
    let Some(all) = all_manifests() else { return };
    for (kind, pointer) in [
        ("Service", "/spec/selector"),
        ("PodDisruptionBudget", "/spec/selector/matchLabels"),
        ("NetworkPolicy", "/spec/podSelector/matchLabels"),
        ("Deployment", "/spec/selector/matchLabels"),
        ("PodMonitor", "/spec/selector/matchLabels"),
    ] {
        for manifest in of_kind(&all, kind) {
            let selector = manifest.object.pointer(pointer).expect("a selector");
            assert!(selects_pods(&all, &manifest.folder, selector), "{}", manifest.place());
        }
    }
}

#[test]
fn only_dispatchers_and_prometheus_may_connect_to_replicas() {
    let Some(all) = all_manifests() else { return };
    let policies = of_kind(&all, "NetworkPolicy");
    let (of_replicas, others): (Vec<_>, Vec<_>) = policies.into_iter().partition(|policy| policy.has_name("replica"));
    assert!(!of_replicas.is_empty());
    // Policies add up, so no other policy may admit more than a Prometheus in another namespace.
    let replica = json!({"app.kubernetes.io/name": "roundhouse", "app.kubernetes.io/component": "replica"});
    let other = others.into_iter().filter(|policy| {
        let selector = policy.object["spec"]["podSelector"]["matchLabels"].as_object().expect("labels");
        selector.iter().all(|(key, value)| &replica[key] == value)
    });
    let other: Vec<_> = other.collect();
    assert!(!other.is_empty());
    for policy in other {
        // An init container that fetches the model opens connections. That admits no other pod.
        if policy.has_name("replica-model") {
            assert_eq!(policy.folder, "k8s/components/model/url");
            assert_eq!(policy.object["spec"]["policyTypes"], json!(["Egress"]), "{}", policy.place());
            continue;
        }
        let peers = json!([{
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}},
            "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
        }]);
        let (spec, place) = (&policy.object["spec"], policy.place());
        assert_eq!(spec["ingress"], json!([{"from": peers, "ports": [{"port": "http"}]}]), "{place}");
        assert!(spec["egress"].is_null() && spec["policyTypes"] == json!(["Ingress"]), "{place}");
    }
    for policy in of_replicas {
        let (spec, place) = (&policy.object["spec"], policy.place());
        let [rule] = &spec["ingress"].as_array().expect("rules")[..] else { panic!("{place}: one rule is expected") };
        let peers = rule["from"].as_array().expect("peers").iter().map(|peer| {
            let labels = &peer["podSelector"]["matchLabels"];
            labels["app.kubernetes.io/component"].as_str().expect("a component")
        });
        assert_eq!(peers.collect::<BTreeSet<_>>(), BTreeSet::from(["dispatcher", "prometheus"]), "{place}");
        assert!(spec["egress"].is_null(), "{place}: a replica must not open connections");
        assert_eq!(spec["policyTypes"], json!(["Ingress", "Egress"]), "{place}");
    }
}

#[test]
fn a_scaler_that_advises_an_hpa_writes_nothing_and_has_the_bounds_of_the_hpa() {
    let Some(all) = all_manifests() else { return };
    let own: Vec<_> = all.into_iter().filter(|manifest| manifest.folder == "k8s/overlays/external-metrics").collect();
    let roles = of_kind(&own, "Role").into_iter().filter(|role| role.has_name("scaler"));
    let rules = roles.flat_map(|role| role.object["rules"].as_array().expect("rules"));
    let verbs: BTreeSet<_> =
        rules.flat_map(|rule| rule["verbs"].as_array().expect("verbs")).map(Value::as_str).collect();
    assert_eq!(verbs, BTreeSet::from([Some("list"), Some("watch")]));
    let [hpa] = of_kind(&own, "HorizontalPodAutoscaler")[..] else { panic!("one HPA is expected") };
    let settings = of_kind(&own, "ConfigMap").into_iter().find(|map| map.has_name("roundhouse-defaults"));
    let settings = &settings.expect("the settings").object["data"];
    for (bound, variable) in [("minReplicas", "ROUNDHOUSE_MIN"), ("maxReplicas", "ROUNDHOUSE_MAX")] {
        assert_eq!(settings[variable], hpa.object["spec"][bound].to_string(), "{bound}");
    }
}

#[test]
fn every_object_has_the_recommended_labels() {
    let Some(all) = all_manifests() else { return };
    for manifest in all.iter().filter(|manifest| manifest.object["kind"] != "Namespace") {
        let (labels, place) = (&manifest.object["metadata"]["labels"], manifest.place());
        for label in ["name", "component", "part-of"] {
            assert!(labels[format!("app.kubernetes.io/{label}")].is_string(), "{place} has no {label}: {labels}");
        }
        assert_eq!(labels["app.kubernetes.io/name"], "roundhouse", "{place}");
    }
}

#[test]
fn a_written_kustomization_changes_the_namespace_and_the_prefix_of_images() {
    for base in ["k8s/base", "k8s/overlays/minikube", "k8s/overlays/gpu", "k8s/overlays/external-metrics"] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut kustomization = Kustomization::new(root().join(base), "shop");
        kustomization.image_prefix = Some("registry.example/team".into());
        kustomization.write(folder.path()).expect("the kustomization is written");
        let Some(text) = build(folder.path()) else { return };
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).expect("kubectl writes YAML");
        assert!(!objects.is_empty());
        for object in objects {
            let namespace = match object["kind"].as_str() {
                Some("Namespace") => &object["metadata"]["name"],
                Some("APIService") => &object["spec"]["service"]["namespace"],
                _ => &object["metadata"]["namespace"],
            };
            assert_eq!(namespace, "shop", "{base}: {object}");
            let container = &object["spec"]["template"]["spec"]["containers"][0];
            let Some(image) = container["image"].as_str() else { continue };
            assert!(image.starts_with("registry.example/team/"), "{base}: {image}");
            assert_eq!(container["imagePullPolicy"], "IfNotPresent", "{base}: a node must fetch the image");
        }
    }
}

/// The example of a kustomization in docs/your-model.md, with the path of a component in place of the one it has.
fn example(component: &str) -> String {
    let document = fs::read_to_string(root().join("docs/your-model.md")).expect("the document can be read");
    let blocks = document.split("```").map(str::trim_start);
    let found = blocks.filter(|block| block.starts_with("apiVersion: kustomize")).collect::<Vec<_>>();
    let [example] = found[..] else { panic!("docs/your-model.md has {} kustomizations, not one", found.len()) };
    let marker = "../k8s/components/model/claim";
    assert!(example.contains(marker), "{example}");
    example.replace(marker, &format!("../k8s/components/{component}"))
}

#[test]
fn the_documented_kustomization_puts_everything_into_one_namespace() {
    for component in ["model/claim", "model/image", "model/image-copy", "model/url", "headroom", "deletion-cost"] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        symlink(root().join("k8s"), folder.path().join("k8s")).expect("linked");
        let shop = folder.path().join("shop");
        fs::create_dir(&shop).expect("made");
        fs::write(shop.join("kustomization.yaml"), example(component)).expect("written");
        let Some(text) = build(&shop) else { return };
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).expect("kubectl writes YAML");
        let namespaced =
            objects.iter().filter(|object| object["kind"] != "Namespace" && object["kind"] != "PriorityClass");
        for object in namespaced {
            assert_eq!(object["metadata"]["namespace"], "roundhouse", "{component}: {object}");
        }
        assert!(objects.iter().any(|object| object["kind"] == "Namespace"), "{component}");
    }
}
