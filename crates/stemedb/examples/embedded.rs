//! One node in a program of twenty lines, no HTTP: `cargo run --example embedded -- DIR`.

use stemedb::{Node, NodeOptions};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "data/embedded".to_owned());
    let node = Node::start(NodeOptions::alone(dir)).await?;
    let settings = node.bucket("demo", "settings").await?;

    let revision = settings.put("colour", "green").await?;
    println!("stored at revision {revision}, on disk already");
    if let Some(version) = settings.get("colour").await? {
        println!("colour = {}", String::from_utf8_lossy(&version.value));
    }
    for row in settings.scan(b"").await? {
        println!("{:?} has changed {} times", row.key, row.version.head.version);
    }
    node.shutdown().await;
    Ok(())
}
