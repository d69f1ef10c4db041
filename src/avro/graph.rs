//! Graph algorithms for schemas and programs: which nodes are on a cycle, and an order in which children come before parents.
//!
//! A recursive schema is a cycle here, so code that walks a schema knows in advance where it would not end. Tarjan's algorithm (SIAM J. Comput. 1,
//! 1972) with its own stack: a chain of a hundred thousand references must not exhaust the thread's.

/// The strongly connected components of a graph.
pub(crate) struct Components {
    /// Component of every node. An edge between two components always leads to the smaller number.
    pub of: Vec<usize>,
    /// Nodes of every component. Components of children come first.
    pub nodes: Vec<Vec<usize>>,
    /// Whether the component holds a cycle: it has several nodes, or one with an edge to itself.
    pub cyclic: Vec<bool>,
}

const UNSEEN: usize = usize::MAX;

/// Finds the components of the graph in which `edges[n]` are the nodes that `n` leads to. Linear time.
pub(crate) fn components(edges: &[Vec<usize>]) -> Components {
    let n = edges.len();
    let mut out = Components {
        of: vec![UNSEEN; n],
        nodes: Vec::new(),
        cyclic: Vec::new(),
    };
    let (mut index, mut low) = (vec![UNSEEN; n], vec![0; n]);
    let (mut next, mut open, mut path) = (0, Vec::new(), Vec::new());
    for root in 0..n {
        if index[root] != UNSEEN {
            continue;
        }
        path.push((root, 0));
        while let Some((node, edge)) = path.last_mut() {
            let node = *node;
            if *edge == 0 && index[node] == UNSEEN {
                (index[node], low[node]) = (next, next);
                next += 1;
                open.push(node);
            }
            if let Some(&child) = edges[node].get(*edge) {
                *edge += 1;
                if index[child] == UNSEEN {
                    path.push((child, 0));
                } else if out.of[child] == UNSEEN {
                    low[node] = low[node].min(index[child]);
                }
                continue;
            }
            path.pop();
            if let Some((parent, _)) = path.last() {
                low[*parent] = low[*parent].min(low[node]);
            }
            if low[node] == index[node] {
                close(&mut out, &mut open, node, edges);
            }
        }
    }
    out
}

/// Pops the component that starts at `root` from the stack of open nodes.
fn close(out: &mut Components, open: &mut Vec<usize>, root: usize, edges: &[Vec<usize>]) {
    let id = out.nodes.len();
    let mut members = Vec::new();
    while let Some(node) = open.pop() {
        out.of[node] = id;
        members.push(node);
        if node == root {
            break;
        }
    }
    out.cyclic.push(members.len() > 1 || edges[root].contains(&root));
    out.nodes.push(members);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cycles_are_found_and_children_come_first() {
        // 0 → 1 → 2 → 1, 2 → 3, 4 → 4
        let c = components(&[vec![1], vec![2], vec![1, 3], vec![], vec![4]]);
        assert_eq!(c.of[1], c.of[2]);
        assert!(c.of[3] < c.of[1] && c.of[1] < c.of[0]);
        let cyclic: Vec<bool> = (0..5).map(|n| c.cyclic[c.of[n]]).collect();
        assert_eq!(cyclic, [false, true, true, false, true]);
    }

    #[test]
    fn a_long_chain_needs_no_stack() {
        let n = 200_000;
        let edges: Vec<Vec<usize>> = (0..n).map(|i| if i + 1 < n { vec![i + 1] } else { vec![] }).collect();
        assert_eq!(components(&edges).nodes.len(), n);
    }
}
