//! See `stemedb_fuzz::meta_command`. Built without a fuzzer, it replays its corpus.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| stemedb_fuzz::meta_command(input));

#[cfg(not(fuzzing))]
fn main() -> std::io::Result<()> {
    let inputs = stemedb_fuzz::replay("meta_command", stemedb_fuzz::meta_command)?;
    println!("meta_command: {inputs} inputs");
    Ok(())
}
