//! smoke
use shakedown_core::target::*;
use shakedown_core::lever::*;
use shakedown_target_sim_alt::*;
use std::time::Duration;
async fn pods(c: &kube::Client) -> Vec<String> {
    let r = http::Request::get("/api/v1/pods").body(vec![]).unwrap();
    let l: serde_json::Value = c.request(r).await.unwrap();
    l["items"].as_array().unwrap().iter().map(|p| format!("{} {} {} {}", p["metadata"]["name"], p["spec"]["nodeName"], p["status"]["phase"], p["metadata"]["deletionTimestamp"])).collect()
}
#[test]
fn smoke() {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).with_test_writer().init();
    let wall = std::time::Instant::now();
    run(async {
        let mut t = SimTarget::new(1);
        let spec = ClusterSpec { control_planes: 3, workers: 3, parameters: Parameters::default(), sabotages: vec![] };
        let began = tokio::time::Instant::now();
        let r = t.boot(&spec, &|_| {}).await;
        println!("boot {:?} {:?} requests {} wall {:?}", r.is_ok(), began.elapsed(), t.requests(), wall.elapsed());
        r.unwrap();
        let c = t.endpoints()[0].client.clone();
        let d = serde_json::json!({"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"replicas":6,"selector":{"matchLabels":{"app":"web"}},"template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"name":"web","image":"kubetm/app:v1"}]}}}});
        let r = http::Request::post("/apis/apps/v1/namespaces/default/deployments").header("content-type","application/json").body(serde_json::to_vec(&d).unwrap()).unwrap();
        let _: serde_json::Value = c.request(r).await.unwrap();
        tokio::time::sleep(Duration::from_secs(20)).await;
        println!("{:#?} wall {:?} req {}", pods(&c).await, wall.elapsed(), t.requests());
        t.pull(&Lever::KillNode{node:"worker-1".into()}).await.unwrap();
        for _ in 0..8 {
            tokio::time::sleep(Duration::from_secs(50)).await;
            println!("{:?} wall {:?} req {}", began.elapsed(), wall.elapsed(), t.requests());
        }
        println!("{:#?}", pods(&c).await);
        t.undo(&Undo::StartNode{node:"worker-1".into()}).await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        println!("{:#?} wall {:?} req {}", pods(&c).await, wall.elapsed(), t.requests());
        let w2 = std::time::Instant::now();
        tokio::time::sleep(Duration::from_secs(1000)).await;
        println!("1000 s idle: {:?}", w2.elapsed());
    });
}
