//! Compiles `proto/peer.proto` with protox, so that no `protoc` is needed on the machine.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../../proto/peer.proto");
    let files = protox::compile(["peer.proto"], ["../../proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::wire::FrameCodec")
        .compile_fds(files)?;
    Ok(())
}
