//! See `stemedb_fuzz::segment_open`. Built without a fuzzer, it replays its corpus.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| stemedb_fuzz::segment_open(input));

#[cfg(not(fuzzing))]
fn main() -> std::io::Result<()> {
    let inputs = stemedb_fuzz::replay("segment_open", stemedb_fuzz::segment_open)?;
    println!("segment_open: {inputs} inputs");
    Ok(())
}
