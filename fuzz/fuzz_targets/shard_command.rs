//! See `stemedb_fuzz::shard_command`. Built without a fuzzer, it replays its corpus.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| stemedb_fuzz::shard_command(input));

#[cfg(not(fuzzing))]
fn main() -> std::io::Result<()> {
    let inputs = stemedb_fuzz::replay("shard_command", stemedb_fuzz::shard_command)?;
    println!("shard_command: {inputs} inputs");
    Ok(())
}
