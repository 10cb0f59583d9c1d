//! See `stemedb_fuzz::row_names`. Built without a fuzzer, it replays its corpus.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| stemedb_fuzz::row_names(input));

#[cfg(not(fuzzing))]
fn main() -> std::io::Result<()> {
    let inputs = stemedb_fuzz::replay("row_names", stemedb_fuzz::row_names)?;
    println!("row_names: {inputs} inputs");
    Ok(())
}
