//! A server on the loopback device, for trying things with a real kubectl.
//!
//! `cargo run -p shakedown-apiserver --example loopback -- FILE` writes a kubeconfig to FILE and
//! serves, from memory, until it is interrupted.

#[path = "../tests/served/loopback/mod.rs"]
mod loopback;

use std::error::Error;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: loopback FILE")?;
    let loopback = loopback::Loopback::start().await;
    std::fs::write(&path, loopback.kubeconfig("kubernetes-admin", &["system:masters"]))?;
    println!("serving on https://{}; kubeconfig in {path}", loopback.address);
    tokio::signal::ctrl_c().await?;
    loopback.server.shut_down();
    loopback.serving.join().await;
    Ok(())
}
