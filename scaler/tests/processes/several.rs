//! One scaler that scales several targets from a configuration file.

use crate::stub::{PATIENCE, Scaler, Scene, eventually};
use serde_json::Value;
use std::fs;
use std::time::{Duration, Instant};

#[tokio::test]
async fn each_section_of_a_file_has_replicas_of_its_own() {
    let (small, large) = (Scene::new().await, Scene::new().await);
    let section = |name: &str, scene: &Scene, min: usize| {
        format!(
            "[{name}]\ndispatcher = \"{}\"\nlist = \"{}\"\nreplica = \"{}\"\nmin = {min}\ncpu-share = 0.5\n\
             drain-delay = \"0s\"\n",
            scene.stub.address,
            scene.list().display(),
            scene.stub.program(scene.folder.path(), "exec 3<&0; cat <&3 > /dev/null").display(),
        )
    };
    let file = small.folder.path().join("scaler.toml");
    fs::write(&file, section("small", &small, 1) + &section("large", &large, 3)).expect("written");
    let scaler = Scaler::with(&small.log(), &[&format!("--config={}", file.display())]).await;
    for (scene, count) in [(&small, 1), (&large, 3)] {
        eventually("its replicas run", || (scene.processes().len() == count).then_some(())).await;
        let list = || fs::read_to_string(scene.list()).ok().filter(|list| list.contains(&scene.stub.address));
        eventually("they are listed", list).await;
    }
    let wanted = ["scaler_desired_replicas{target=\"small\"} 1", "scaler_desired_replicas{target=\"large\"} 3"];
    let until = Instant::now() + PATIENCE;
    loop {
        let metrics = scaler.get("/metrics").await;
        if wanted.iter().all(|sample| metrics.contains(sample)) {
            break;
        }
        assert!(Instant::now() < until, "{metrics}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let status: Value = serde_json::from_str(&scaler.get("/status").await).expect("JSON");
    let targets: Vec<&Value> = status["targets"].as_array().expect("a list").iter().map(|one| &one["target"]).collect();
    assert_eq!(targets, ["large", "small"]);
    assert!(!small.said().contains("runs without its limits"), "{}", small.said());
}
