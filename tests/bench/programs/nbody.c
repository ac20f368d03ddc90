/* The planets in doubles. Built twice: with fused multiply-add instructions, and (UNFUSED) without. */
#include "bench.h"

#define MASS (4 * 3.141592653589793 * 3.141592653589793)
#define YEAR 365.24
typedef struct {
  double x, y, z, vx, vy, vz, mass;
} body;
static const body start[5] = {
  {0, 0, 0, 0, 0, 0, MASS},
  {4.84143144246472090, -1.16032004402742839, -.103622044471123109, .00166007664274403694 * YEAR,
   .00769901118419740425 * YEAR, -.0000690460016972063023 * YEAR, 9.54791938424326609e-4 * MASS},
  {8.34336671824457987, 4.12479856412430479, -.403523417114321381, -.00276742510726411021 * YEAR,
   .00499852801234917238 * YEAR, .0000230417297573763929 * YEAR, 2.85885980666130812e-4 * MASS},
  {12.8943695621391310, -15.1111514016986312, -.223307578892655734, .00296460137564761618 * YEAR,
   .00237847173959480950 * YEAR, -.0000296589568540237556 * YEAR, 4.36624404335156298e-5 * MASS},
  {15.3796971148509165, -25.9193146099879641, .179258772950371181, .00268067772490389322 * YEAR,
   .00162824170038242295 * YEAR, -.0000951592254519715870 * YEAR, 5.15138902046611451e-5 * MASS},
};
static body bodies[5];

static NOINLINE void advance(double dt) {
  for (int i = 0; i < 5; i++) {
    body *a = &bodies[i];
    for (int j = i + 1; j < 5; j++) {
      body *b = &bodies[j];
      double dx = a->x - b->x, dy = a->y - b->y, dz = a->z - b->z;
      double square = dx * dx + dy * dy + dz * dz;
      double size = dt / (square * __builtin_sqrt(square));
      a->vx -= dx * b->mass * size;
      a->vy -= dy * b->mass * size;
      a->vz -= dz * b->mass * size;
      b->vx += dx * a->mass * size;
      b->vy += dy * a->mass * size;
      b->vz += dz * a->mass * size;
    }
  }
  for (int i = 0; i < 5; i++) {
    bodies[i].x += dt * bodies[i].vx;
    bodies[i].y += dt * bodies[i].vy;
    bodies[i].z += dt * bodies[i].vz;
  }
}

#ifdef UNFUSED
uint32_t nbody_unfused(uint32_t n)
#else
uint32_t nbody(uint32_t n)
#endif
{
  double sum = 0;
  memcpy(bodies, start, sizeof bodies);
  for (uint32_t k = 0; k < n; k++) advance(0.001);
  for (int i = 0; i < 5; i++) sum += bodies[i].x + bodies[i].y * 3 + bodies[i].vz;
  uint64_t bits;
  memcpy(&bits, &sum, sizeof bits);
  return bits ^ (bits >> 32);
}
