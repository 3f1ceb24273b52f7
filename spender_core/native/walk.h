/* Resampling by walking along nodes and points, both increasing, in Angstrom: any grid, and the
   exact path of float64. Included once for each type REAL, with NAMED(name) naming functions. */

/* Return the cell that holds a coordinate, at or after another: node[cell] < at <= node[cell + 1]. */
static inline int64_t NAMED(advance)(const spender_job *job, int64_t cell, double at) {
    while (cell < job->cells - 1 && job->node[cell + 1] < at) cell++;
    return cell;
}

static int64_t NAMED(search)(const spender_job *job, double at) {
    int64_t low = 0, high = job->cells - 1;
    while (low < high) {
        int64_t middle = (low + high + 1) / 2;
        if (job->node[middle] < at) low = middle;
        else high = middle - 1;
    }
    return low;
}

/* Return the mass of a cell between two coordinates. */
static inline double NAMED(overlap)(const spender_job *job, int64_t cell, double from, double to) {
    double low = job->node[cell] > from ? job->node[cell] : from;
    double high = job->node[cell + 1] < to ? job->node[cell + 1] : to;
    return high > low ? high - low : 0;
}

static void NAMED(walk_linear)(const spender_job *job, int64_t row, int backward, double *slope) {
    const REAL *x = (const REAL *)job->x + row * job->rest;
    REAL *y = (REAL *)job->y + row * job->observed;
    const REAL *grad_y = (const REAL *)job->grad_y + row * job->observed;
    REAL *grad_x = backward && job->grad_x ? (REAL *)job->grad_x + row * job->rest : 0;
    const double scale = job->scale[row];
    int64_t i = job->first[row], last = job->last[row];
    if (i >= last) return;
    int64_t cell = NAMED(search)(job, job->point[i] * scale);
    for (; i < last; i++) {
        double at = job->point[i] * scale;
        cell = NAMED(advance)(job, cell, at);
        double width = job->node[cell + 1] - job->node[cell];
        REAL share = (REAL)((at - job->node[cell]) / width);
        REAL step = x[cell + 1] - x[cell];
        if (!backward) {
            y[i] = x[cell] + share * step;
            continue;
        }
        if (grad_x) {
            grad_x[cell] += (1 - share) * grad_y[i];
            grad_x[cell + 1] += share * grad_y[i];
        }
        *slope += (double)grad_y[i] * step * (at / width);
    }
}

static void NAMED(walk_flux)(const spender_job *job, int64_t row, int backward, double *slope) {
    const REAL *x = (const REAL *)job->x + row * job->rest;
    REAL *y = (REAL *)job->y + row * job->observed;
    const REAL *grad_y = (const REAL *)job->grad_y + row * job->observed;
    REAL *grad_x = backward && job->grad_x ? (REAL *)job->grad_x + row * job->rest : 0;
    const double scale = job->scale[row];
    int64_t i = job->first[row], last = job->last[row];
    if (i >= last) return;
    int64_t cell = NAMED(search)(job, job->point[i] * scale);
    for (; i < last; i++) {
        double from = job->point[i] * scale, to = job->point[i + 1] * scale, sum = 0;
        cell = NAMED(advance)(job, cell, from);
        /* a point on a node belongs to the cell before, of which nothing is left here */
        if (job->node[cell + 1] <= from && cell < job->cells - 1) cell++;
        int64_t end = cell;
        for (; end < job->cells && job->node[end] < to; end++)
            sum += NAMED(overlap)(job, end, from, to) * x[end];
        end--;
        double mean = cell == end ? (double)x[cell] : sum / (to - from);
        if (!backward) {
            y[i] = (REAL)mean;
        } else {
            double unit = grad_y[i] / (to - from);
            if (grad_x && cell == end) grad_x[cell] += grad_y[i];
            else if (grad_x)
                for (int64_t j = cell; j <= end; j++)
                    grad_x[j] += (REAL)(unit * NAMED(overlap)(job, j, from, to));
            *slope += grad_y[i] * (((double)x[end] - x[cell]) * (to / (to - from)) + x[cell] - mean);
        }
        cell = end;
    }
}

SPENDER_API void NAMED(spender_walk_forward)(const spender_job *job, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) {
        double slope = 0;
        clear(job, row, sizeof(REAL));
        if (job->flux) NAMED(walk_flux)(job, row, 0, &slope);
        else NAMED(walk_linear)(job, row, 0, &slope);
    }
}

SPENDER_API void NAMED(spender_walk_backward)(const spender_job *job, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) {
        double slope = 0;
        if (job->grad_x)
            memset((REAL *)job->grad_x + row * job->rest, 0, (size_t)job->rest * sizeof(REAL));
        if (job->flux) NAMED(walk_flux)(job, row, 1, &slope);
        else NAMED(walk_linear)(job, row, 1, &slope);
        if (job->grad_z) job->grad_z[row] = slope * job->slope[row];
    }
}
