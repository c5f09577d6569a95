//! How much of each block's forward pass is kept for the backward one, given the room there is.

use crate::layers::Keep;

/// The level of each block, `costs` being the floats a row that each level adds: all blocks are raised from level to level,
/// first to last, as long as `bytes` last for `rows` depending rows. The levels are in the order of the arithmetic that a
/// byte saves.
pub fn levels(costs: &[[(Keep, usize); 3]], rows: usize, mut bytes: u64) -> Vec<Keep> {
    let mut levels = vec![Keep::Input; costs.len()];
    for step in 0..3 {
        for (level, cost) in levels.iter_mut().zip(costs) {
            let (next, floats) = cost[step];
            let size = (rows * floats * size_of::<f32>()) as u64;
            if size > bytes {
                return levels;
            }
            bytes -= size;
            *level = next;
        }
    }
    levels
}

/// Bytes that [`Keep::Everything`] takes for `rows` depending rows.
pub fn everything(costs: &[[(Keep, usize); 3]], rows: usize) -> u64 {
    let floats: usize = costs.iter().flatten().map(|(_, floats)| *floats).sum();
    (rows * floats * size_of::<f32>()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_raised_level_by_level_as_far_as_the_room_goes() {
        let cost = [(Keep::Outputs, 1), (Keep::Projections, 2), (Keep::Everything, 5)];
        let costs = [cost, cost];
        let level = |bytes| levels(&costs, 10, bytes);
        assert_eq!(level(39), [Keep::Input, Keep::Input]);
        assert_eq!(level(40), [Keep::Outputs, Keep::Input]);
        assert_eq!(level(80), [Keep::Outputs, Keep::Outputs]);
        assert_eq!(level(80 + 160 - 1), [Keep::Projections, Keep::Outputs]);
        assert_eq!(level(80 + 160 + 200), [Keep::Everything, Keep::Projections]);
        assert_eq!(level(u64::MAX), [Keep::Everything, Keep::Everything]);
        assert_eq!(levels(&costs, 0, 0), [Keep::Everything, Keep::Everything]);
        assert_eq!(everything(&costs, 10), 2 * 8 * 10 * 4);
    }
}
