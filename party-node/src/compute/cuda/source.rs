//! The kernels' source: CUDA C++ that NVRTC compiles for a GPU and, for tests, a C++ compiler for the emulator.

/// All of it, in the order in which it builds.
const FILES: [&str; 11] = [
    include_str!("kernels/prelude.cuh"),
    include_str!("kernels/elementwise.cu"),
    include_str!("kernels/keystream.cu"),
    include_str!("kernels/planes.cu"),
    include_str!("kernels/gemm.cu"),
    include_str!("kernels/conv.cu"),
    include_str!("kernels/limbs.cu"),
    include_str!("kernels/residues.cu"),
    include_str!("kernels/movement.cu"),
    include_str!("kernels/compare.cu"),
    include_str!("kernels/tables.cu"),
];

/// One program.
pub(super) fn source() -> String {
    FILES.concat()
}

/// How a kernel is declared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Declared<'a> {
    pub(super) name: &'a str,
    /// Whether its threads meet.
    pub(super) cooperative: bool,
}

/// Every kernel of a program: a line that begins with `KERNEL` or `COOPERATIVE`, or with `GEMM(` and the like, which
/// expand to one.
pub(super) fn kernels(source: &str) -> Vec<Declared<'_>> {
    let declared = |line| {
        let named = |keyword, end: char, cooperative| {
            let rest: &str = str::strip_prefix(line, keyword)?;
            Some(Declared { name: rest.split(end).next()?, cooperative })
        };
        let products = ["GEMM(", "CONV(", "KEYSTREAM("].into_iter().find_map(|keyword| named(keyword, ',', true));
        named("KERNEL ", '(', false).or_else(|| named("COOPERATIVE ", '(', true)).or(products)
    };
    source.lines().filter_map(declared).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_found_once_each() {
        let source = source();
        let kernels = kernels(&source);
        let mut names: Vec<_> = kernels.iter().map(|kernel| kernel.name).collect();
        assert!(names.contains(&"add_assign") && names.contains(&"bit_planes"));
        let declared = ["KERNEL ", "COOPERATIVE ", "GEMM(", "CONV(", "KEYSTREAM("]
            .map(|word| source.matches(&format!("\n{word}")).count());
        assert_eq!(names.len(), declared.iter().sum::<usize>());
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), kernels.len());
        assert!(names.iter().all(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')), "{names:?}");
    }
}
